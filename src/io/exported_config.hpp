#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/adapter.hpp"
#include "io/llama_config.hpp"

// The JSON files of an export.
namespace longlora {

// config.json of a model that was made from a base: the base's own (empty: none), with what has
// changed written over. rope_theta and rope_scaling are what transformers 4 reads, rope_parameters
// what 5 reads. `dtype` as torch calls it: float32.
std::string exported_config(std::string_view base, const LlamaConfig& config,
                            const std::string& dtype);

// adapter_config.json of PEFT. `saved_modules` are the layers that the file holds whole; `base` is where
// the base model lies, empty where it is no folder.
std::string exported_adapter_config(const AdapterConfig& adapter,
                                    const std::vector<std::string>& saved_modules,
                                    const std::string& base);

// README.md of an adapter: PEFT's files have no place for the rope scaling, so this says how to set it.
std::string exported_adapter_readme(const LlamaConfig& config, const std::string& base);

}  // namespace longlora
