#include "options/invocation.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include <boost/program_options.hpp>

#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

namespace po = boost::program_options;

// Boost splits command lines and INI files; values stay texts here and are read by set_option,
// so that each message is ours and a key is named in full.
po::options_description described_options() {
    po::options_description options;
    for (const auto& key : option_keys()) {
        options.add_options()(key.c_str(), po::value<std::string>());
    }
    return options;
}

std::vector<po::option> split_command_line(int argc, const char* const* argv) {
    namespace style = po::command_line_style;
    po::options_description options = described_options();
    options.add_options()("help,h", "")("version", "")("dry-run", "");
    options.add_options()("config", po::value<std::string>())("command", po::value<std::string>());
    po::positional_options_description positional;
    positional.add("command", -1);
    // No guessing: an abbreviated key would change its meaning when an option is added.
    const int chosen = style::unix_style & ~style::allow_guessing & ~style::allow_sticky;
    po::command_line_parser parser(argc, argv);
    try {
        return parser.options(options).positional(positional).style(chosen).run().options;
    } catch (const po::unknown_option& fault) {
        const std::string name = fault.get_option_name();
        const std::string bare = name.substr(std::min(name.find_first_not_of('-'), name.size()));
        throw Error("unknown option '" + name + "'" + suggestion(bare), ExitCode::bad_input);
    } catch (const po::error& fault) {
        throw Error(std::string(fault.what()) + "; --help shows how options are given",
                    ExitCode::bad_input);
    }
}

void read_config(Options& options, std::istream& text, const std::string& name) {
    std::set<std::string> seen;
    for (const auto& option : po::parse_config_file(text, described_options(), true).options) {
        require(seen.insert(option.string_key).second,
                name + ": " + option.string_key + " stands there twice; keep one");
        set_option(options, option.string_key, option.value.at(0), name + ": ");
    }
}

void read_config_file(Options& options, const std::string& path, std::string_view default_ini) {
    std::stringstream text;
    if (path == "default") {
        text << default_ini;
    } else {
        std::ifstream file(path);
        require(file.is_open() && !std::filesystem::is_directory(path),
                "cannot read the config file '" + path +
                    "'; give --config the path of an INI file, or `default`");
        text << file.rdbuf();
        text.clear();  // an empty file sets failbit
    }
    try {
        read_config(options, text, path);
    } catch (const po::error& fault) {
        throw Error(
            path + ": " + fault.what() + "; its lines are [section], key = value and # comment",
            ExitCode::bad_input);
    }
}

// Boost takes an unknown option for the value of the one before it.
void check_value(const std::string& key, const std::string& value) {
    require(!value.starts_with("--"), "--" + key + " needs a value, but " + value + " follows it");
}

// What the command line says, before any of it is acted upon.
struct Words {
    std::vector<std::string> commands;
    std::vector<std::string> configs;
    std::vector<std::pair<std::string, std::string>> settings;  // key, value
};

Words sorted_words(const std::vector<po::option>& parsed, Invocation& invocation) {
    Words words;
    for (const auto& option : parsed) {
        const std::string& key = option.string_key;
        if (key == "help" || key == "version" || key == "dry-run") {
            invocation.wants_help |= key == "help";
            invocation.wants_version |= key == "version";
            invocation.is_dry_run |= key == "dry-run";
            continue;
        }
        const std::string& value = option.value.at(0);
        check_value(key, value);
        if (key == "command") {
            words.commands.push_back(value);
        } else if (key == "config") {
            words.configs.push_back(value);
        } else {
            words.settings.emplace_back(key, value);
        }
    }
    return words;
}

void set_command(Invocation& invocation, const std::vector<std::string>& commands) {
    require(commands.size() <= 1,
            "one command at most, not '" + join(commands, "' and '") + "'; options start with --");
    if (commands.empty()) {
        return;
    }
    const std::vector<std::string> known = {"train", "evaluate", "export", "prepare", "report"};
    require(std::find(known.begin(), known.end(), commands[0]) != known.end(),
            "unknown command '" + commands[0] + "'; the commands are " + join(known, ", ") +
                ", and options start with --");
    invocation.command = commands[0];
}

}  // namespace

Invocation parse(int argc, const char* const* argv, std::string_view default_ini) {
    Invocation invocation;
    Words words = sorted_words(split_command_line(argc, argv), invocation);
    set_command(invocation, words.commands);
    if (words.configs.empty() && words.settings.empty()) {
        words.configs.emplace_back("default");
    }
    for (const auto& config : words.configs) {
        invocation.uses_default_config |= config == "default";
        read_config_file(invocation.options, config, default_ini);
    }
    invocation.options.configured = invocation.options.given;
    for (const auto& [key, value] : words.settings) {
        set_option(invocation.options, key, value);
        invocation.options.configured.erase(key);
    }
    return invocation;
}

}  // namespace longlora
