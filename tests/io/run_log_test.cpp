#include "io/run_log.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <functional>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;

const std::vector<LogQuantity> quantities{{"step", true}, {"loss", false}, {"tokens", true}};
const Attributes attributes{{"run.name", std::string("test")}, {"train.steps", std::int64_t{9}}};

void append(RunLog& log, Index step) {
    const double s = static_cast<double>(step);
    log.append_step(std::array{s, 1.0 / s, 4096.0 * s});
}

std::vector<double> values(const LogContents& contents, const std::string& name) {
    const std::span<const double> column = contents.column(name);
    return {column.begin(), column.end()};
}

void fail_on_notice(const std::string& message) { BOOST_ERROR("unexpected notice: " + message); }

// A process that runs `body(ready)`, then waits to be killed. It is there for the parent once the
// body has called ready().
class Writer {
public:
    using Ready = std::function<void()>;

    explicit Writer(const std::function<void(const Ready&)>& body) {
        std::array<int, 2> ends{};
        BOOST_REQUIRE(pipe(ends.data()) == 0);
        child_ = fork();
        if (child_ == 0) {
            run(body, ends[1]);
        }
        close(ends[1]);
        char ready = 0;
        BOOST_TEST(read(ends[0], &ready, 1) == 1);
        close(ends[0]);
    }
    ~Writer() {
        kill(child_, SIGKILL);
        waitpid(child_, nullptr, 0);
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

private:
    [[noreturn]] static void run(const std::function<void(const Ready&)>& body, int end) {
        try {
            body([&] {
                if (write(end, "r", 1) != 1) {
                    _exit(1);
                }
            });
        } catch (const std::exception&) {
            _exit(1);
        }
        while (true) {
            pause();
        }
    }

    pid_t child_ = 0;
};

BOOST_AUTO_TEST_CASE(what_was_written_is_read) {
    const TemporaryFolder folder;
    const std::string path = folder / "runs" / "a" / "log.h5";  // folders are made
    RunLog log = RunLog::create(path, attributes, quantities);
    for (Index step = 1; step <= 600; ++step) {  // more than two chunks
        append(log, step);
    }
    log.append_evaluation({200, "trained", "sliding", 8192, 32768, 7.25});
    log.append_event({1.5, 3, "checkpoint", std::string(300, 'm')});
    log.close();
    const LogContents contents = read_log(path);
    BOOST_TEST((contents.attributes == attributes));
    BOOST_TEST(contents.steps.size() == 3U);
    BOOST_TEST(contents.steps[0].quantity.name == "step");
    BOOST_TEST(contents.column("loss").size() == 600U);
    BOOST_TEST(contents.column("loss")[599] == 1.0 / 600);
    BOOST_TEST(contents.column("tokens")[599] == 4096.0 * 600);
    BOOST_TEST(contents.column("other").empty());
    BOOST_TEST(contents.evaluations.size() == 1U);
    const EvaluationRow& row = contents.evaluations.at(0);
    BOOST_TEST(row.step == 200);
    BOOST_TEST(row.model == "trained");
    BOOST_TEST(row.protocol == "sliding");
    BOOST_TEST(row.context == 8192);
    BOOST_TEST(row.scored_tokens == 32768);
    BOOST_TEST(row.perplexity == 7.25);
    BOOST_TEST(contents.events.at(0).time == 1.5);
    BOOST_TEST(contents.events.at(0).step == 3);
    BOOST_TEST(contents.events.at(0).kind == "checkpoint");
    BOOST_TEST(contents.events.at(0).message == std::string(256, 'm'));
    BOOST_TEST(!std::filesystem::exists(path + ".tmp"));
}

// Rows as append() writes them, from step 1 on.
void check_rows(const LogContents& contents, std::size_t rows) {
    BOOST_TEST(contents.steps.size() == quantities.size());
    for (const LogColumn& column : contents.steps) {
        BOOST_TEST(column.values.size() == rows, column.quantity.name);
    }
    bool is_right = true;
    for (std::size_t i = 0; i < rows; ++i) {
        const double step = static_cast<double>(i + 1);
        is_right = is_right && contents.column("step")[i] == step &&
                   contents.column("loss")[i] == 1.0 / step &&
                   contents.column("tokens")[i] == 4096.0 * step;
    }
    BOOST_TEST(is_right);
}

BOOST_AUTO_TEST_CASE(readers_follow_a_living_writer) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    const Writer writer([&](const Writer::Ready& ready) {
        RunLog log = RunLog::create(path, attributes, quantities);
        for (Index step = 1; step <= 300; ++step) {
            append(log, step);
        }
        log.append_event({0, 300, "kind", "message"});
        log.append_evaluation({300, "trained", "longlora", 64, 64, 2});
        ready();
        pause();
    });
    const LogContents contents = read_log(path);
    check_rows(contents, 300);
    BOOST_TEST((contents.attributes == attributes));
    BOOST_TEST(contents.events.at(0).message == "message");
    BOOST_TEST(contents.evaluations.at(0).protocol == "longlora");
    CHECK_INPUT_ERROR(RunLog::extend(path, fail_on_notice), "another process is writing the log");
    check_rows(read_log(path), 300);
}

BOOST_AUTO_TEST_CASE(readers_see_whole_rows_of_a_busy_writer) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    const Writer writer([&](const Writer::Ready& ready) {
        RunLog log = RunLog::create(path, attributes, quantities);
        ready();
        for (Index step = 1;; ++step) {
            append(log, step);
        }
    });
    std::size_t rows = 0;
    for (int look = 0; look < 40; ++look) {
        const LogContents contents = read_log(path);
        BOOST_TEST(contents.column("step").size() >= rows);
        rows = contents.column("step").size();
        check_rows(contents, rows);
    }
    BOOST_TEST(rows > 0U);
}

BOOST_AUTO_TEST_CASE(a_killed_run_goes_on_and_each_step_stands_there_once) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    {
        const Writer writer([&](const Writer::Ready& ready) {
            RunLog log = RunLog::create(path, attributes, quantities);
            for (Index step = 1; step <= 10; ++step) {
                append(log, step);
                log.append_event({0, step, "kind", "message"});
            }
            log.append_evaluation({4, "trained", "sliding", 64, 64, 2});
            log.append_evaluation({8, "trained", "sliding", 64, 64, 3});
            ready();
            pause();
        });
    }
    check_rows(read_log(path), 10);  // by a reader, too, before anything is repaired
    const Attributes others{{"run.name", std::string("other layout")}};
    RunLog log = RunLog::resume(path, others, quantities, 6, fail_on_notice);
    for (Index step = 7; step <= 12; ++step) {
        append(log, step);
    }
    log.close();
    const LogContents contents = read_log(path);
    check_rows(contents, 12);
    BOOST_TEST((contents.attributes == others));
    BOOST_TEST(contents.evaluations.size() == 1U);
    BOOST_TEST(contents.events.size() == 6U);
    const Hdf5File plain = Hdf5File::open(path);  // no writer's mark is left
    BOOST_TEST(plain.dataset("/steps/loss").size() == 12);
}

// Killed at any moment, often: what is there can be read and gone on with.
BOOST_AUTO_TEST_CASE(kills_at_random_moments) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    std::size_t rows = 0;
    for (useconds_t round = 0; round < 15; ++round) {
        {
            const Writer writer([&](const Writer::Ready& ready) {
                const bool is_early = round % 2 == 0;  // to be killed while the log is rewritten
                if (is_early) {
                    ready();
                }
                const auto resumed = static_cast<Index>(rows);
                RunLog log = RunLog::resume(path, attributes, quantities, resumed, fail_on_notice);
                for (Index step = resumed + 1;; ++step) {
                    append(log, step);
                    if (step == resumed + 1 && !is_early) {
                        ready();
                    }
                }
            });
            usleep(1000 + 2700 * round);
        }
        if (std::filesystem::exists(path)) {
            const LogContents contents = read_log(path);
            BOOST_TEST(contents.column("step").size() >= rows);
            rows = contents.column("step").size();
            check_rows(contents, rows);
        }
    }
    BOOST_TEST(rows > 0U);
}

BOOST_AUTO_TEST_CASE(quantities_may_come_and_go_between_versions) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    RunLog::create(path, attributes, quantities).append_step(std::array{1.0, 0.5, 9.0});
    const std::vector<LogQuantity> later{{"step", true}, {"seconds", false}, {"loss", false}};
    RunLog log = RunLog::resume(path, attributes, later, 5, fail_on_notice);
    log.append_step(std::array{2.0, 0.1, 0.25});
    BOOST_CHECK_THROW(log.append_step(std::array{3.0}), Error);
    log.close();
    const LogContents contents = read_log(path);
    BOOST_TEST(values(contents, "step") == (std::vector<double>{1, 2}));
    BOOST_TEST(values(contents, "loss") == (std::vector<double>{0.5, 0.25}));
    BOOST_TEST(values(contents, "tokens") == (std::vector<double>{9, 0}));
    BOOST_TEST(std::isnan(contents.column("seconds")[0]));
    BOOST_TEST(contents.column("seconds")[1] == 0.1);
}

BOOST_AUTO_TEST_CASE(evaluations_are_added_to_a_run_that_has_ended) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    {
        RunLog log = RunLog::create(path, attributes, quantities);
        append(log, 1);
        append(log, 2);
    }  // closed by its destructor
    RunLog log = RunLog::extend(path, fail_on_notice);
    log.append_evaluation({2, "base", "sliding", 64, 64, 3});
    log.close();
    const LogContents contents = read_log(path);
    check_rows(contents, 2);
    BOOST_TEST((contents.attributes == attributes));
    BOOST_TEST(contents.evaluations.at(0).model == "base");
}

BOOST_AUTO_TEST_CASE(an_unreadable_log_is_set_aside_loudly) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    std::vector<std::string> notices;
    const Notify notify = [&](const std::string& message) { notices.push_back(message); };
    for (int n = 1; n <= 2; ++n) {
        test::write_file(path, "power was lost here");
        RunLog log = RunLog::resume(path, attributes, quantities, 5, notify);
        append(log, 1);
        log.close();
        check_rows(read_log(path), 1);
        const std::string aside = path + ".damaged-" + std::to_string(n);
        BOOST_TEST(test::read_file(aside) == "power was lost here");
        BOOST_REQUIRE(notices.size() == static_cast<std::size_t>(n));
        BOOST_TEST(test::contains(notices.back(), aside), notices.back());
    }
}

BOOST_AUTO_TEST_CASE(a_missing_log_is_made) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    CHECK_INPUT_ERROR(read_log(path), "log.h5: No such file or directory");
    RunLog::resume(path, attributes, quantities, 5, fail_on_notice).close();
    check_rows(read_log(path), 0);
}

BOOST_AUTO_TEST_CASE(a_log_that_was_moved_takes_no_more_rows) {
    const TemporaryFolder folder;
    const std::string path = folder / "log.h5";
    RunLog log = RunLog::create(path, attributes, quantities);
    append(log, 1);
    std::filesystem::rename(path, folder / "moved.h5");
    BOOST_CHECK_THROW(append(log, 2), Error);
    std::filesystem::copy_file(folder / "moved.h5", path);  // another file of the same name
    BOOST_CHECK_THROW(log.check_place(), Error);
    std::filesystem::rename(folder / "moved.h5", path);
    append(log, 2);
    log.close();
    BOOST_TEST(values(read_log(path), "step") == (std::vector<double>{1, 2}));
}

}  // namespace
}  // namespace longlora
