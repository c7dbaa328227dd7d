#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include <boost/test/unit_test.hpp>

#include "core/random.hpp"
#include "support/files.hpp"

// Files with one byte changed, and files cut short, at random places: the same in every run.
namespace longlora::test {

// Files of each kind: LONGLORA_DAMAGE, for a soak, or a few.
inline int damage_count(int few) {
    const char* const asked = std::getenv("LONGLORA_DAMAGE");
    return asked != nullptr ? std::atoi(asked) : few;
}

// What has been done to a file's bytes.
struct Damage {
    std::string bytes;
    std::string text;
};

inline Damage flipped(const std::string& intact, std::uint64_t key) {
    Damage damage{intact, ""};
    const std::size_t at = mix_bits(key) % intact.size();
    const auto bits = static_cast<unsigned char>(1 + mix_bits(key + 1) % 255);
    damage.bytes[at] = static_cast<char>(static_cast<unsigned char>(intact[at]) ^ bits);
    damage.text = "byte " + std::to_string(at) + " ^ " + std::to_string(int{bits});
    return damage;
}

inline Damage cut(const std::string& intact, std::uint64_t key) {
    const std::size_t size = mix_bits(key) % intact.size();
    return {intact.substr(0, size), "cut to " + std::to_string(size) + " bytes"};
}

// Calls check(damage) for `few` damages of each kind, or as many as LONGLORA_DAMAGE says. A check
// that takes longer than a minute ends the test.
template <class Check>
void for_each_damage(const std::string& intact, int few, const Check& check) {
    const int count = damage_count(few);
    for (int kind = 0; kind < 2; ++kind) {
        for (int i = 0; i < count; ++i) {
            const std::uint64_t key = mix_bits(static_cast<std::uint64_t>(2 * i + kind) + 1);
            const Damage damage = kind == 0 ? flipped(intact, key) : cut(intact, key);
            BOOST_TEST_INFO_SCOPE(damage.text);
            alarm(60);
            check(damage);
        }
    }
    alarm(0);
}

// In place: a file that another process, or HDF5, still knows by its number is not it.
inline void write_damaged(const std::string& path, const Damage& damage) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << damage.bytes;
}

}  // namespace longlora::test
