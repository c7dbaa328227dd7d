#include "io/safetensors.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include <boost/test/unit_test.hpp>

#include "core/random.hpp"
#include "io/float16.hpp"
#include "support/files.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;

std::string file_of(const std::string& header, std::size_t data_bytes) {
    const std::uint64_t length = header.size();
    std::string file(reinterpret_cast<const char*>(&length), 8);
    return file + header + std::string(data_bytes, '\1');
}

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

Safetensors parsed(const std::string& file) { return {bytes_of(file), "FILE"}; }

std::vector<float> all_floats(const Safetensors& file, const std::string& name) {
    std::vector<float> values(static_cast<std::size_t>(file.at(name).size()));
    file.read_floats(name, {0, file.at(name).size()}, values);
    return values;
}

// The value of 16 bits by the definition of the format.
double defined_value(unsigned bits, int exponent_bits) {
    const int mantissa_bits = 15 - exponent_bits;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
    const double sign = (bits & 0x8000U) != 0 ? -1 : 1;
    if (exponent == 0) {
        return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    }
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

BOOST_AUTO_TEST_CASE(sixteen_bits_to_float_is_the_definition_and_back_is_exact) {
    for (unsigned i = 0; i < 65536; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        const float half = float_from_f16(bits);
        const float brain = float_from_bf16(bits);
        if ((i & 0x7c00U) != 0x7c00U) {
            BOOST_REQUIRE_EQUAL(half, defined_value(i, 5));
        } else {
            BOOST_REQUIRE_EQUAL(std::isnan(half), (i & 0x3ffU) != 0);
        }
        if ((i & 0x7f80U) != 0x7f80U) {
            BOOST_REQUIRE_EQUAL(brain, defined_value(i, 8));
        } else {
            BOOST_REQUIRE_EQUAL(std::isnan(brain), (i & 0x7fU) != 0);
        }
        BOOST_REQUIRE(std::isnan(half) ? std::isnan(float_from_f16(f16_from_float(half)))
                                       : f16_from_float(half) == bits);
        BOOST_REQUIRE(std::isnan(brain) ? std::isnan(float_from_bf16(bf16_from_float(brain)))
                                        : bf16_from_float(brain) == bits);
    }
}

// Halfway between neighbours (exact in float for both formats) goes to the even one, a hair
// more or less to the nearer one.
template <class From, class To>
void check_rounding(unsigned infinity, const From& from, const To& to) {
    for (unsigned i = 0; i + 1 < infinity; ++i) {
        const float low = from(static_cast<std::uint16_t>(i));
        const float high = from(static_cast<std::uint16_t>(i + 1));
        const float middle = low / 2 + high / 2;
        const bool is_exact = static_cast<double>(middle) * 2 == static_cast<double>(low) + high;
        BOOST_REQUIRE(!is_exact || to(middle) == (i % 2 == 0 ? i : i + 1));
        BOOST_REQUIRE(!is_exact || to(-middle) == (0x8000U | (i % 2 == 0 ? i : i + 1)));
        BOOST_REQUIRE_EQUAL(to(std::nextafter(middle, low)), middle == low ? i + 1 : i);
        BOOST_REQUIRE_EQUAL(to(std::nextafter(middle, high)), i + 1);
    }
}

BOOST_AUTO_TEST_CASE(float_to_sixteen_bits_rounds_to_nearest_even) {
    check_rounding(0x7c00, float_from_f16, f16_from_float);
    check_rounding(0x7f80, float_from_bf16, bf16_from_float);
    const float infinity = std::numeric_limits<float>::infinity();
    BOOST_TEST(f16_from_float(65519.99F) == 0x7bff);
    BOOST_TEST(f16_from_float(65520.0F) == 0x7c00);
    BOOST_TEST(f16_from_float(-1e30F) == 0xfc00);
    BOOST_TEST(bf16_from_float(std::numeric_limits<float>::max()) == 0x7f80);
    BOOST_TEST(bf16_from_float(-infinity) == 0xff80);
}

BOOST_AUTO_TEST_CASE(what_is_written_is_read) {
    const TemporaryFolder folder;
    std::vector<float> matrix(6);
    std::iota(matrix.begin(), matrix.end(), -2.0F);
    const std::vector<float> scalar = {0.1F};
    std::vector<float> many(70000);  // more than the writer's block
    for (std::size_t i = 0; i < many.size(); ++i) {
        many[i] = static_cast<float>(random_normal(7, i));
    }
    const std::vector<TensorToWrite> tensors = {{"scalar", {}, "F16", scalar},
                                                {"z \"matrix\" \xc3\xa9", {2, 3}, "F32", matrix},
                                                {"empty", {0, 4}, "F32", {}},
                                                {"brain", {70000}, "BF16", many},
                                                {"half", {350, 200}, "F16", many}};
    write_safetensors(folder / "x.safetensors", tensors, {{"format", "pt"}, {"by", "test"}});
    BOOST_TEST(!std::filesystem::exists(folder / "x.safetensors.tmp"));
    const Safetensors file(folder / "x.safetensors");
    BOOST_TEST(file.tensors().size() == 5U);
    BOOST_TEST(file.metadata().at("by") == "test");
    BOOST_TEST(all_floats(file, "z \"matrix\" \xc3\xa9") == matrix);
    BOOST_TEST(all_floats(file, "scalar").at(0) == float_from_f16(f16_from_float(0.1F)));
    BOOST_TEST(file.at("scalar").shape.empty());
    BOOST_TEST(all_floats(file, "empty").empty());
    const auto brain = all_floats(file, "brain");
    const auto half = all_floats(file, "half");
    for (std::size_t i = 0; i < many.size(); ++i) {
        BOOST_REQUIRE_EQUAL(brain[i], float_from_bf16(bf16_from_float(many[i])));
        BOOST_REQUIRE_EQUAL(half[i], float_from_f16(f16_from_float(many[i])));
    }
}

BOOST_AUTO_TEST_CASE(tensors_may_come_in_pieces) {
    const TemporaryFolder folder;
    std::vector<float> values(30);
    std::iota(values.begin(), values.end(), 1.0F);
    const std::span<const float> all(values);
    SafetensorsWriter writer(folder / "x",
                             {{"a", {4, 5}, "F32"}, {"e", {0}}, {"b", {10}, "BF16"}, {"f", {0}}});
    writer.append(all.first(7));
    writer.append(all.subspan(7, 16));  // over the end of a
    BOOST_TEST(!std::filesystem::exists(folder / "x"));
    writer.append(all.last(7));
    BOOST_CHECK_THROW(writer.append(all.first(1)), Error);
    writer.publish();
    const Safetensors file(folder / "x");
    auto found = all_floats(file, "a");
    const auto rest = all_floats(file, "b");
    found.insert(found.end(), rest.begin(), rest.end());
    BOOST_TEST(found == values);
    SafetensorsWriter unfinished(folder / "y", {{"a", {4}}});
    unfinished.append(all.first(3));
    BOOST_CHECK_THROW(unfinished.publish(), Error);
}

// Infinity in the place of a large weight would only show as NaN much later.
BOOST_AUTO_TEST_CASE(what_sixteen_bits_cannot_hold_is_refused) {
    const TemporaryFolder folder;
    const auto write = [&](const std::string& dtype, float value) {
        const std::vector<float> values = {1, value};
        write_safetensors(folder / "x", std::vector<TensorToWrite>{{"w", {2}, dtype, values}});
    };
    const float infinity = std::numeric_limits<float>::infinity();
    write("F16", -65519);
    write("F16", infinity);
    write("BF16", 0x1.fep127F);
    write("F32", std::numeric_limits<float>::max());
    CHECK_INPUT_ERROR(write("F16", 65520), "tensor 'w' holds 65520, which F16 cannot");
    CHECK_INPUT_ERROR(write("BF16", -0x1.ffp127F), "which BF16 cannot; write float32 instead");
}

BOOST_AUTO_TEST_CASE(parts_are_read_and_wrong_parts_refused) {
    const std::string text = file_of(
        R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"m":{"dtype":"F32","shape":[3,2],"data_offsets":[1,25]}})",
        25);
    const Safetensors file = parsed(text);  // m is not aligned
    std::vector<float> out(2);
    file.read_floats("m", {4, 6}, out);
    BOOST_TEST(out[0] == std::bit_cast<float>(0x01010101));
    file.read_rows({"m", 3, 2}, {1, 2}, out);
    file.read_floats("m", {6, 6}, std::span<float>());
    CHECK_INPUT_ERROR(file.read_floats("m", {5, 7}, out), "which has 6");
    CHECK_INPUT_ERROR(file.read_floats("m", {-1, 1}, out), "which has 6");
    CHECK_INPUT_ERROR(file.read_floats("m", {0, 3}, out), "into 2 floats");
    CHECK_INPUT_ERROR(file.read_floats("a", {0, 1}, std::span(out).first(1)), "has type U8");
    CHECK_INPUT_ERROR(file.read_floats("b", {0, 1}, out), "FILE has no tensor 'b'");
    CHECK_INPUT_ERROR(file.read_rows({"m", 2, 3}, {0, 1}, out), "m is [3, 2] instead of [2, 3]");
    CHECK_INPUT_ERROR(file.read_rows({"m", 6, 0}, {0, 1}, out), "m is [3, 2] instead of [6]");
    CHECK_INPUT_ERROR(file.read_rows({"m", 3, 2}, {2, 4}, out), "has no rows 2 to 4");
    CHECK_INPUT_ERROR(file.read_rows({"n", 3, 2}, {0, 1}, out), "n is missing");
}

BOOST_AUTO_TEST_CASE(damaged_headers_are_named) {
    const auto refused = [](const std::string& header, std::size_t data, const std::string& part) {
        const std::string file = file_of(header, data);
        CHECK_INPUT_ERROR(parsed(file), part);
    };
    const auto tensor = [](const std::string& fields) { return R"({"t":{)" + fields + "}}"; };
    refused("{", 0, "the header of FILE is not valid JSON");
    refused("[]", 0, "must hold one JSON object, not a list");
    refused(R"({"t":3})", 0, "tensor 't' is described by 3");
    refused(tensor(R"("dtype":"F32","shape":[1])"), 4, "has no list \"data_offsets\"");
    refused(tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), 4, "must be a string");
    refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4,
            "unusable data_offsets");
    refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), 8, "unusable");
    refused(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 4, "cut short");
    refused(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "takes 8 bytes");
    refused(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "holds -1");
    refused(tensor(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), 4, "holds 1.5");
    refused(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
            "impossible shape");
    refused(tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), 4,
            "2^63 - 1");
    refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5, "1 bytes behind");
    const std::string one = R"({"dtype":"F32","shape":[1],"data_offsets":)";
    refused(R"({"a":)" + one + R"([0,4]},"b":)" + one + "[0,4]}}", 4, "'b' overlap");
    refused(R"({"a":)" + one + R"([0,4]},"b":)" + one + "[5,9]}}", 9, "'b' do not follow");
    refused(R"({"a":)" + one + R"([0,4]},"a":)" + one + "[4,8]}}", 8, "\"a\" stands twice");
    refused(std::string(3'000'000, '['), 0, "not valid JSON");  // nesting costs no stack
    refused(R"({"t":)" + std::string(500'000, '[') + std::string(500'000, ']') + "}", 0, "a list");
    CHECK_INPUT_ERROR(parsed("1234567"), "FILE is not a safetensors file, or damaged: it has 7");
    CHECK_INPUT_ERROR(parsed(std::string(8, '\xff') + "{}"), "a header of 18446744073709551615");
    CHECK_INPUT_ERROR(Safetensors("/no/such.safetensors"), "cannot open /no/such.safetensors");
    CHECK_INPUT_ERROR(Safetensors("/tmp"), "not a regular file");
}

// Whatever a damaged file says, it is an Error or all of it can be read (run with a sanitizer).
BOOST_AUTO_TEST_CASE(no_damage_leads_out_of_the_file) {
    const TemporaryFolder folder;
    const std::vector<float> values(24, 1.5F);
    write_safetensors(folder / "x", std::vector<TensorToWrite>{{"a", {4, 6}, "F32", values},
                                                               {"b", {24}, "BF16", values},
                                                               {"c", {2, 3, 4}, "F16", values}});
    const std::string good = test::read_file(folder / "x");
    const auto read_all = [](const std::string& content) {
        const std::vector<char> exact(content.begin(), content.end());  // ends where the file ends
        try {
            const Safetensors file(std::as_bytes(std::span(exact)), "FILE");
            for (const auto& [name, tensor] : file.tensors()) {
                if (tensor.is_readable()) {
                    all_floats(file, name);
                }
            }
        } catch (const Error&) {
            return false;
        }
        return true;
    };
    BOOST_TEST(read_all(good));
    for (std::size_t length = 0; length < good.size(); ++length) {
        BOOST_TEST(!read_all(good.substr(0, length)));
    }
    const std::string changes = "\0\x7f\xff 09[]{}:,\"-eF";
    for (std::size_t i = 0; i < good.size(); ++i) {
        for (const char change : changes) {
            std::string damaged = good;
            damaged[i] = change;
            read_all(damaged);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_writer_refuses_nonsense_and_keeps_the_old_file) {
    const TemporaryFolder folder;
    const auto path = folder / "x.safetensors";
    const std::vector<float> values(4);
    const auto write = [&](std::vector<TensorToWrite> tensors) {
        write_safetensors(path, tensors);
    };
    write({{"a", {4}, "F32", values}});
    BOOST_CHECK_THROW(write({{"b", {5}, "F32", values}}), Error);
    BOOST_CHECK_THROW(write({{"b", {4}, "I8", values}}), Error);
    BOOST_CHECK_THROW(write({{"b", {4}, "F32", values}, {"b", {4}, "F32", values}}), Error);
    BOOST_CHECK_THROW(write_safetensors(folder / "no/folder/x", {}), Error);
    BOOST_TEST(Safetensors(path).has("a"));
}

}  // namespace
}  // namespace longlora
