#pragma once

#include <string>

#include "data/token_stream.hpp"
#include "options/options.hpp"

namespace longlora {

// Rows to train on and tokens to score: asked before anything is built, and by a dry run. An Error
// where there is nothing to learn, or where data.train and data.validation have unlike tokenizers.
void check_data(const Options& options, Index vocabulary);

// Warns on rank 0 when the tokens were prepared with another tokenizer than lies beside the
// base model: its ids then mean other words, and no number would show it.
void check_tokenizer(const TokenStream& data, const std::string& model_path);

}  // namespace longlora
