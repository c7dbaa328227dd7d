#include "core/progress.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>

#include "core/terminal.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

constexpr double redraw_seconds = 0.1;  // a screen needs no more, and slow links choke on more
constexpr double quiet_seconds = 10;    // the longest silence of plain lines inside a step

std::string loss_text(double loss) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.4f", loss);
    return text.data();
}

std::string figures(const ProgressView& view) {
    std::string text;
    if (view.has_report) {
        text = "  loss " + loss_text(view.loss) + "  " + format_count(view.tokens_per_second) +
               " tokens/s  " + format_seconds(view.seconds_left) + " left";
    }
    return text + (view.what.empty() ? "" : "  " + view.what);
}

std::string counted(const ProgressView& view) {
    const std::string last = std::to_string(view.last);
    std::string step = std::to_string(view.step);
    step.insert(0, last.size() - std::min(last.size(), step.size()), ' ');
    return step + "/" + last;
}

}  // namespace

std::string plain_line(const ProgressView& view) { return "step " + counted(view) + figures(view); }

std::string bar_line(const ProgressView& view, int width) {
    const std::string text = counted(view) + figures(view);
    const int room =
        width - static_cast<int>(text.size()) - 4;  // brackets, space, last column free
    if (room < 10 && !view.what.empty()) {
        ProgressView shorter = view;  // the bar says as much
        shorter.what.clear();
        return bar_line(shorter, width);
    }
    if (room < 10) {
        return text.substr(0, static_cast<std::size_t>(std::max(width - 1, 0)));
    }
    const int bar = std::min(room, 40);
    const int full = std::clamp(static_cast<int>(view.fraction * bar), 0, bar);
    return "[" + std::string(static_cast<std::size_t>(full), '#') +
           std::string(static_cast<std::size_t>(bar - full), '.') + "] " + text;
}

Progress::Progress(Index first_step, Index last_step, Index every)
    : first_(first_step), last_(last_step), every_(every), shown_(Clock::now()) {
    recent_.step = first_step - 1;
}

double Progress::seconds_left(double steps_done) const {
    return std::max(0.0, static_cast<double>(last_) - steps_done) * step_seconds_;
}

void Progress::show(double steps_done, const std::string& what) {
    const ProgressView view{.step = what.empty() ? recent_.step : recent_.step + 1,
                            .last = last_,
                            .fraction = steps_done / static_cast<double>(std::max<Index>(last_, 1)),
                            .loss = recent_.loss,
                            .tokens_per_second = step_tokens_ / std::max(step_seconds_, 1e-9),
                            .seconds_left = seconds_left(steps_done),
                            .has_report = has_report_,
                            .what = what};
    if (is_terminal()) {
        draw(bar_line(view, terminal_width()));
    } else {
        say(plain_line(view));
    }
    shown_ = Clock::now();
}

void Progress::inside(Index step, double fraction, const std::string& what) {
    const std::chrono::duration<double> silence = Clock::now() - shown_;
    if (silence.count() >= (is_terminal() ? redraw_seconds : quiet_seconds)) {
        show(static_cast<double>(step - 1) + fraction, what);
    }
}

void Progress::done(const StepReport& report) {
    // A tenth of the newest: steady enough to read, quick enough to follow a slow node.
    const double weight = has_report_ ? 0.1 : 1.0;
    step_seconds_ += weight * (report.seconds - step_seconds_);
    step_tokens_ += weight * (report.tokens - step_tokens_);
    recent_ = report;
    has_report_ = true;
    const bool is_last = report.step == last_;
    const std::chrono::duration<double> silence = Clock::now() - shown_;
    const bool is_due = is_terminal() ? silence.count() >= redraw_seconds
                                      : report.step == first_ || report.step % every_ == 0;
    if (is_due || is_last) {
        show(static_cast<double>(report.step), "");
    }
}

void Progress::end() { draw(""); }

}  // namespace longlora
