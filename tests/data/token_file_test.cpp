#include "data/token_file.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;
using Tokens = std::vector<std::int32_t>;

Tokens tokens_of(const TokenFile& file, Range range) {
    Tokens tokens(static_cast<std::size_t>(range.size()));
    file.read(range, tokens);
    return tokens;
}

Tokens labels_of(const TokenFile& file, Range range) {
    Tokens labels(static_cast<std::size_t>(range.size()));
    file.read_labels(range, labels);
    return labels;
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
    std::string bytes(values.size() * sizeof(T), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

// A .npy file as numpy writes it, its header given in words.
std::string npy(const std::string& header, const std::string& data, char version = 1) {
    const std::size_t width = version == 1 ? 2 : 4;
    std::string padded = header;
    while ((8 + width + padded.size() + 1) % 64 != 0) {
        padded += ' ';
    }
    padded += '\n';
    std::string bytes = "\x93NUMPY";
    bytes += {version, '\0'};
    for (std::size_t i = 0; i < width; ++i) {
        bytes += static_cast<char>(padded.size() >> (8 * i) & 0xffU);
    }
    return bytes + padded + data;
}

const std::string int32_header = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }";

BOOST_AUTO_TEST_CASE(documents_are_written_and_read_back) {
    for (const Index vocabulary : {Index{32000}, Index{65536}, Index{128256}}) {
        const TemporaryFolder folder;
        const std::string path = folder / "new" / "tokens.h5";
        Tokens all;
        std::vector<std::uint64_t> starts;
        TokenFileWriter writer(path, {"name", "0123", vocabulary, false});
        for (Index d = 0; d < 9000; ++d) {  // more documents than a chunk holds
            Tokens document(static_cast<std::size_t>(d % 23));
            for (std::size_t i = 0; i < document.size(); ++i) {
                document[i] =
                    static_cast<std::int32_t>((vocabulary - 1) * static_cast<Index>(i + 1) /
                                              static_cast<Index>(document.size()));
            }
            starts.push_back(all.size());
            writer.append(document);
            all.insert(all.end(), document.begin(), document.end());
        }
        starts.push_back(all.size());
        BOOST_TEST(writer.tokens() == static_cast<Index>(all.size()));
        BOOST_TEST(writer.documents() == 9000);
        BOOST_TEST(!std::filesystem::exists(path));
        writer.close();
        BOOST_TEST(!std::filesystem::exists(path + ".tmp"));

        const TokenFile file(path, vocabulary);
        BOOST_TEST(file.size() == static_cast<Index>(all.size()));
        BOOST_TEST(file.info().tokenizer == "name");
        BOOST_TEST(file.info().tokenizer_digest == "0123");
        BOOST_TEST(file.info().vocabulary == vocabulary);
        BOOST_TEST(!file.info().has_prompts);
        BOOST_TEST(tokens_of(file, {0, file.size()}) == all);
        BOOST_TEST(labels_of(file, {0, file.size()}) == all);
        for (const Range range :
             {Range{0, 0}, {5, 6}, {65530, 65545}, {file.size() - 1, file.size()}}) {
            BOOST_TEST(tokens_of(file, range) ==
                       Tokens(all.begin() + range.begin, all.begin() + range.end));
        }
        const Hdf5File stored = Hdf5File::open(path);
        BOOST_TEST(stored.dataset("/documents").read_all<std::uint64_t>() == starts);
        BOOST_TEST((stored.dataset("/tokens").type() ==
                    (vocabulary <= 65536 ? Hdf5Type::uint16 : Hdf5Type::uint32)));
    }
}

BOOST_AUTO_TEST_CASE(a_prompt_is_no_label) {
    const TemporaryFolder folder;
    TokenFileWriter writer(folder / "tokens.h5", {"name", "", 100, true});
    Tokens expected;
    std::int32_t next = 0;
    // lengths and prompts: none, all, some, empty documents between them
    const std::vector<std::pair<int, int>> documents{{4, 0}, {3, 3}, {0, 0},
                                                     {5, 2}, {6, 1}, {2, 2}};
    for (const auto& [length, prompt] : documents) {
        Tokens document(static_cast<std::size_t>(length));
        std::iota(document.begin(), document.end(), next);
        next += length;
        writer.append(document, prompt);
        std::fill(document.begin(), document.begin() + prompt, ignored_label);
        expected.insert(expected.end(), document.begin(), document.end());
    }
    writer.close();
    const TokenFile file(folder / "tokens.h5", 100);
    BOOST_TEST(file.info().has_prompts);
    for (Index begin = 0; begin <= file.size(); ++begin) {
        for (Index end = begin; end <= file.size(); ++end) {
            const Tokens labels(expected.begin() + begin, expected.begin() + end);
            BOOST_TEST(labels_of(file, {begin, end}) == labels);
            BOOST_TEST(file.count_labels({begin, end}) ==
                       end - begin - std::ranges::count(labels, ignored_label));
        }
    }
    BOOST_TEST(tokens_of(file, {4, 7}) == (Tokens{4, 5, 6}));
}

BOOST_AUTO_TEST_CASE(an_abandoned_writer_leaves_nothing) {
    const TemporaryFolder folder;
    {
        TokenFileWriter writer(folder / "tokens.h5", {"name", "", 10, false});
        writer.append(Tokens{1, 2, 3});
        BOOST_CHECK_THROW(writer.append(Tokens{10}), Error);
        BOOST_CHECK_THROW(writer.append(Tokens{-1}), Error);
        BOOST_CHECK_THROW(writer.append(Tokens{1}, 1), Error);  // no prompts were announced
    }
    BOOST_TEST(std::filesystem::is_empty(folder.path()));
    TokenFileWriter writer(folder / "tokens.h5", {"name", "", 10, false});
    writer.close();
    BOOST_TEST(TokenFile(folder / "tokens.h5", 10).size() == 0);
    BOOST_CHECK_THROW(writer.append(Tokens{1}), Error);
}

BOOST_AUTO_TEST_CASE(flat_files_have_the_width_of_the_vocabulary) {
    const TemporaryFolder folder;
    const std::string narrow =
        test::write_file(folder / "a.bin", bytes_of<std::uint16_t>({0, 7, 65535}));
    const TokenFile file(narrow, 65536);
    BOOST_TEST(tokens_of(file, {0, 3}) == (Tokens{0, 7, 65535}));
    BOOST_TEST(labels_of(file, {1, 2}) == (Tokens{7}));
    BOOST_TEST(file.info().tokenizer == "");
    const std::string wide =
        test::write_file(folder / "b.bin", bytes_of<std::uint32_t>({0, 7, 128255}));
    BOOST_TEST(tokens_of(TokenFile(wide, 128256), {1, 3}) == (Tokens{7, 128255}));
    BOOST_TEST(TokenFile(wide, 65536).size() == 6);
    test::write_file(folder / "c.bin", "");
    BOOST_TEST(TokenFile(folder / "c.bin", 10).size() == 0);
    CHECK_INPUT_ERROR(TokenFile(narrow, 65537), "6 bytes, which is no multiple of 4");
}

BOOST_AUTO_TEST_CASE(numpy_files) {
    const TemporaryFolder folder;
    const std::string data = bytes_of<std::int32_t>({5, 0, 70000});
    const auto read = [&](const std::string& bytes) {
        return tokens_of(TokenFile(test::write_file(folder / "a.npy", bytes), 80000), {0, 3});
    };
    const Tokens expected{5, 0, 70000};
    BOOST_TEST(read(npy(int32_header, data)) == expected);
    BOOST_TEST(read(npy(int32_header, data, 2)) == expected);
    BOOST_TEST(read(npy(int32_header, data, 3)) == expected);
    BOOST_TEST(read(npy("{\"shape\":(3,),\"fortran_order\":False,\"descr\":\"<i4\"}", data)) ==
               expected);
    BOOST_TEST(read(npy("{'descr': '<i4', 'fortran_order': True, 'shape': ( 3 , )}", data)) ==
               expected);

    const auto error = [&](const std::string& bytes) {
        return test::input_error([&] { read(bytes); });
    };
    const auto check = [&](const std::string& bytes, const std::string& part) {
        BOOST_TEST(test::contains(error(bytes), part), error(bytes) + "\n    lacks: " + part);
    };
    const auto with = [&](const std::string& type, const std::string& shape) {
        return npy("{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }",
                   data);
    };
    check(with("<i8", "(3,)"), "must hold int32");
    check(with(">i4", "(3,)"), "must hold int32");
    check(with("<f4", "(3,)"), "must hold int32");
    check(with("<i4", "(1, 3)"), "must be one-dimensional");
    check(with("<i4", "()"), "must be one-dimensional");
    check(with("<i4", "(-3,)"), "must be one-dimensional");
    check(with("<i4", "(99999999999999999999,)"), "must be one-dimensional");
    check(with("<i4", "(4,)"), "ends before its 4 tokens");
    check(with("<i4", "(4611686018427387904,)"), "ends before its");
    check(npy("nonsense", data), "must hold int32");
    check(npy("{'descr':", data), "must hold int32");
    check(npy("{'descr': '<i4', 'shape'", data), "must be one-dimensional");
    check(npy("", data), "must hold int32");
    check(npy(int32_header, data, 9), "version 1 to 3");
    const std::string whole = npy(int32_header, data, 2);
    for (std::size_t size = 6; size < whole.size(); ++size) {
        BOOST_TEST(test::contains(error(whole.substr(0, size)), "a.npy"));
    }
}

BOOST_AUTO_TEST_CASE(tokens_outside_the_vocabulary_are_named) {
    const TemporaryFolder folder;
    TokenFileWriter writer(folder / "tokens.h5", {"name", "", 70000, false});
    writer.append(Tokens{1, 2, 31999, 69999, 3});
    writer.close();
    CHECK_INPUT_ERROR(TokenFile(folder / "tokens.h5", 32000),
                      "was made with a tokenizer of 70000 entries (name)");
    {
        const std::vector<std::uint32_t> tokens{1, 2, 31999, 69999, 3};
        Hdf5File silent = Hdf5File::create(folder / "silent.h5");  // as others may write it
        silent.create_dataset("/tokens", {.type = Hdf5Type::uint32, .shape = {5}})
            .write(Range{0, 5}, std::span<const std::uint32_t>(tokens));
        silent.close();
    }
    const TokenFile file(folder / "silent.h5", 32000);
    BOOST_TEST(tokens_of(file, {0, 3}) == (Tokens{1, 2, 31999}));
    CHECK_INPUT_ERROR(tokens_of(file, {1, 5}),
                      "token 3 is 69999, but the model's vocabulary has 32000");
    CHECK_INPUT_ERROR(labels_of(file, {3, 4}), file.path() + ": token 3 is 69999");
    test::write_file(folder / "a.bin", bytes_of<std::uint32_t>({1, 4294967295U}));
    CHECK_INPUT_ERROR(tokens_of(TokenFile(folder / "a.bin", 70000), {0, 2}),
                      "token 1 is 4294967295");
    test::write_file(folder / "a.npy", npy(int32_header, bytes_of<std::int32_t>({1, 2, -1})));
    CHECK_INPUT_ERROR(tokens_of(TokenFile(folder / "a.npy", 70000), {0, 3}), "token 2 is -1");
    BOOST_CHECK_THROW(tokens_of(file, {0, 6}), Error);
    BOOST_CHECK_THROW(tokens_of(file, {-1, 2}), Error);
}

BOOST_AUTO_TEST_CASE(files_of_other_kinds_are_refused) {
    const TemporaryFolder folder;
    CHECK_INPUT_ERROR(TokenFile(folder / "none.h5", 10), "none.h5");
    CHECK_INPUT_ERROR(TokenFile(test::write_file(folder / "a.txt", "words"), 10),
                      "a.txt holds no tokens that can be read here");
    CHECK_INPUT_ERROR(TokenFile(test::write_file(folder / "a.npy", "words"), 10),
                      "holds no tokens");
    CHECK_INPUT_ERROR(TokenFile(folder.path(), 10), folder.path().string());
    const std::string path = folder / "a.h5";
    {
        Hdf5File file = Hdf5File::create(path);
        file.close();
    }
    CHECK_INPUT_ERROR(TokenFile(path, 10), "has no dataset /tokens");
    {
        Hdf5File file = Hdf5File::create(path);
        file.create_dataset("/tokens", {.type = Hdf5Type::float32, .shape = {4}});
        file.close();
    }
    CHECK_INPUT_ERROR(TokenFile(path, 10), "/tokens must be one-dimensional");
}

BOOST_AUTO_TEST_CASE(prompts_that_do_not_fit_their_documents_are_refused) {
    const TemporaryFolder folder;
    const std::string path = folder / "tokens.h5";
    const auto open = [&](const std::vector<std::uint64_t>& starts,
                          const std::vector<std::uint64_t>& ends) {
        {
            Hdf5File file = Hdf5File::create(path);
            const std::vector<std::uint16_t> tokens(10);
            const auto create = [&]<class T>(const std::string& name,
                                             const std::vector<T>& values) {
                const auto size = static_cast<Index>(values.size());
                file.create_dataset(name, {.type = hdf5_type<T>(), .shape = {size}})
                    .write(Range{0, size}, std::span<const T>(values));
            };
            create("/tokens", tokens);
            create("/documents", starts);
            create("/prompt_ends", ends);
            file.close();
        }
        return TokenFile(path, 10).size();
    };
    BOOST_TEST(open({0, 4, 10}, {2, 4}) == 10);
    CHECK_INPUT_ERROR(open({0, 4, 9}, {2, 4}), "one entry more than /prompt_ends");
    CHECK_INPUT_ERROR(open({1, 4, 10}, {2, 4}), "one entry more than /prompt_ends");
    CHECK_INPUT_ERROR(open({0, 10}, {2, 4}), "one entry more than /prompt_ends");
    CHECK_INPUT_ERROR(open({0, 4, 10}, {5, 6}), "the prompt of document 0");
    CHECK_INPUT_ERROR(open({0, 4, 10}, {2, 3}), "the prompt of document 1");
    CHECK_INPUT_ERROR(open({}, {}), "one entry more than /prompt_ends");
}

}  // namespace
}  // namespace longlora
