#include "io/run_log.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <thread>
#include <utility>

#include "core/error.hpp"
#include "core/fault_point.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

// A row is rewritten with its chunk and the chunk's checksum (4 bytes), all inside one page: cheap,
// and whole even if the process is killed meanwhile.
constexpr std::size_t chunk_bytes = 4096 - 4;

struct Field {
    const char* name;
    Hdf5Type type;
    std::size_t text_size = 0;
};
// The first field of a group is written last: where it stands, the rest of its row does too.
constexpr std::array evaluation_fields{
    Field{"step", Hdf5Type::int64},          Field{"model", Hdf5Type::text, 16},
    Field{"protocol", Hdf5Type::text, 16},   Field{"context", Hdf5Type::int64},
    Field{"scored_tokens", Hdf5Type::int64}, Field{"perplexity", Hdf5Type::float64}};
constexpr std::array event_fields{Field{"time", Hdf5Type::float64}, Field{"step", Hdf5Type::int64},
                                  Field{"kind", Hdf5Type::text, 32},
                                  Field{"message", Hdf5Type::text, 256}};

Hdf5Dataset create_column(Hdf5File& file, const std::string& path, const Field& field) {
    const std::size_t bytes = field.type == Hdf5Type::text ? field.text_size : sizeof(double);
    return file.create_dataset(path, {.type = field.type,
                                      .shape = {0},
                                      .chunk = static_cast<Index>(chunk_bytes / bytes),
                                      .is_extensible = true,
                                      .text_size = field.text_size});
}

template <std::size_t Count>
std::vector<Hdf5Dataset> create_group(Hdf5File& file, const std::string& group,
                                      const std::array<Field, Count>& fields) {
    file.create_group(group);
    std::vector<Hdf5Dataset> columns;
    for (const Field& field : fields) {
        columns.push_back(create_column(file, group + "/" + field.name, field));
    }
    return columns;
}

std::vector<Hdf5Dataset> create_steps(Hdf5File& file, std::span<const LogColumn> columns) {
    file.create_group("/steps");
    std::vector<Hdf5Dataset> datasets;
    for (const LogColumn& column : columns) {
        const LogQuantity& quantity = column.quantity;
        datasets.push_back(create_column(
            file, "/steps/" + quantity.name,
            {.name = "", .type = quantity.is_integer ? Hdf5Type::int64 : Hdf5Type::float64}));
    }
    return datasets;
}

template <class T>
void append_one(Hdf5Dataset& column, const T& value) {
    column.append(std::span<const T>(&value, 1));
}
void append_one(Hdf5Dataset& column, const std::string& text) {
    column.append_text(std::span(&text, 1));
}

void append_values(Hdf5Dataset& column, bool is_integer, std::span<const double> values) {
    if (!is_integer) {
        column.append(values);
        return;
    }
    std::vector<std::int64_t> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(),
                   [](double value) { return std::isfinite(value) ? std::llround(value) : 0; });
    column.append(std::span<const std::int64_t>(rounded));
}

void flush_row(std::vector<Hdf5Dataset>& columns) {
    for (auto column = columns.rbegin(); column != columns.rend(); ++column) {
        column->flush();
    }
}

double missing(const LogQuantity& quantity) {
    return quantity.is_integer ? 0.0 : std::numeric_limits<double>::quiet_NaN();
}

// ---- reading

// Rows that stand in all columns of a group: a writer may be, or have died, in the midst of one.
Index complete_rows(const Hdf5File& file, const std::string& group) {
    Index rows = std::numeric_limits<Index>::max();
    const std::vector<std::string> names = file.names(group);
    for (const std::string& name : names) {
        rows = std::min(rows, file.dataset(join({group, name}, "/")).size());
    }
    return names.empty() ? 0 : rows;
}

template <class T>
std::vector<T> read_numbers(const Hdf5File& file, const std::string& path, Index rows) {
    std::vector<T> values(static_cast<std::size_t>(rows));
    file.dataset(path).read(Range{0, rows}, std::span<T>(values));
    return values;
}

std::vector<std::string> read_texts(const Hdf5File& file, const std::string& path, Index rows) {
    std::vector<std::string> texts = file.dataset(path).read_all_text();
    texts.resize(static_cast<std::size_t>(rows));
    return texts;
}

std::vector<LogColumn> read_steps(const Hdf5File& file) {
    const Index rows = complete_rows(file, "/steps");
    std::vector<LogColumn> columns;
    for (const std::string& name : file.names("/steps")) {
        const std::string path = "/steps/" + name;
        const bool is_integer = file.dataset(path).type() == Hdf5Type::int64;
        LogColumn column{{name, is_integer}, read_numbers<double>(file, path, rows)};
        columns.insert(name == "step" ? columns.begin() : columns.end(), std::move(column));
    }
    require(!columns.empty() && columns.front().quantity.name == "step",
            file.path() + " is not a run's log: it has no /steps/step");
    return columns;
}

std::vector<EvaluationRow> read_evaluations(const Hdf5File& file) {
    const Index rows = complete_rows(file, "/evaluations");
    const auto steps = read_numbers<std::int64_t>(file, "/evaluations/step", rows);
    const auto models = read_texts(file, "/evaluations/model", rows);
    const auto protocols = read_texts(file, "/evaluations/protocol", rows);
    const auto contexts = read_numbers<std::int64_t>(file, "/evaluations/context", rows);
    const auto scored = read_numbers<std::int64_t>(file, "/evaluations/scored_tokens", rows);
    const auto perplexities = read_numbers<double>(file, "/evaluations/perplexity", rows);
    std::vector<EvaluationRow> table;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        table.push_back(
            {steps[i], models[i], protocols[i], contexts[i], scored[i], perplexities[i]});
    }
    return table;
}

std::vector<EventRow> read_events(const Hdf5File& file) {
    const Index rows = complete_rows(file, "/events");
    const auto times = read_numbers<double>(file, "/events/time", rows);
    const auto steps = read_numbers<std::int64_t>(file, "/events/step", rows);
    const auto kinds = read_texts(file, "/events/kind", rows);
    const auto messages = read_texts(file, "/events/message", rows);
    std::vector<EventRow> table;
    for (std::size_t i = 0; i < times.size(); ++i) {
        table.push_back({times[i], steps[i], kinds[i], messages[i]});
    }
    return table;
}

LogContents read_once(const std::string& path) {
    const Hdf5File file = Hdf5File::open_growing(path);
    return {file.attributes(), read_steps(file), read_evaluations(file), read_events(file)};
}

// ---- going on

// Keeps the rows of steps up to `step`.
void cut(LogContents& contents, Index step) {
    const std::vector<double>& steps = contents.steps.front().values;
    std::vector<bool> is_kept(steps.size());
    for (std::size_t i = 0; i < steps.size(); ++i) {
        is_kept[i] = static_cast<Index>(steps[i]) <= step;
    }
    for (LogColumn& column : contents.steps) {
        std::size_t row = 0;
        std::erase_if(column.values, [&](double) { return !is_kept[row++]; });
    }
    const auto is_later = [&](const auto& row) { return row.step > step; };
    std::erase_if(contents.evaluations, is_later);
    std::erase_if(contents.events, is_later);
}

// The given quantities in their order, then those that only the file has.
std::vector<LogColumn> merge(std::vector<LogColumn> old, std::span<const LogQuantity> quantities) {
    const std::size_t rows = old.empty() ? 0 : old.front().values.size();
    std::vector<LogColumn> columns;
    for (const LogQuantity& quantity : quantities) {
        const auto found = std::find_if(old.begin(), old.end(), [&](const LogColumn& column) {
            return column.quantity.name == quantity.name;
        });
        std::vector<double> values(rows, missing(quantity));
        if (found != old.end()) {
            values = std::move(found->values);
            old.erase(found);
        }
        columns.push_back({quantity, std::move(values)});
    }
    std::move(old.begin(), old.end(), std::back_inserter(columns));
    return columns;
}

// What the log holds; nothing when it is missing, or unreadable and now set aside.
LogContents read_or_set_aside(const std::string& path, const Notify& notify) {
    if (!std::filesystem::exists(path)) {
        return {};
    }
    try {
        return read_log(path);
    } catch (const Error& error) {
        notify(std::string(error.what()) + "; it is kept as " + set_aside(path) +
               " and a new log begins");
        return {};
    }
}

FolderLock lock_folder_of(const std::string& path) {
    make_folders(folder_of(path));
    return {folder_of(path), "the log", "run.directory"};
}

}  // namespace

std::span<const double> LogContents::column(const std::string& name) const {
    for (const LogColumn& column : steps) {
        if (column.quantity.name == name) {
            return column.values;
        }
    }
    return {};
}

bool is_closed_log(const std::string& path) {
    try {
        Hdf5File::open(path);
        return true;
    } catch (const Error&) {
        return false;
    }
}

LogContents read_log(const std::string& path) {
    // A chunk may be read while it is written, and then fails its checksum; the next look is right.
    for (int attempt = 1;; ++attempt) {
        const bool is_damaged = attempt == 5 || is_closed_log(path);  // if this look fails too
        try {
            return read_once(path);
        } catch (const Error&) {
            if (is_damaged) {
                throw;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    }
}

RunLog::RunLog(const std::string& path, LogContents contents,
               std::span<const LogQuantity> quantities, FolderLock lock)
    : lock_(std::move(lock)),
      path_(path),
      file_(Hdf5File::create(path + ".tmp", Access::growing, path)),
      quantities_(quantities.begin(), quantities.end()),
      given_(quantities.size()) {
    const std::vector<LogColumn> columns = merge(std::move(contents.steps), quantities);
    for (std::size_t i = given_; i < columns.size(); ++i) {
        quantities_.push_back(columns[i].quantity);
    }
    file_.write_attributes(contents.attributes);
    steps_ = create_steps(file_, columns);
    evaluations_ = create_group(file_, "/evaluations", evaluation_fields);
    events_ = create_group(file_, "/events", event_fields);
    for (std::size_t i = 0; i < columns.size(); ++i) {
        append_values(steps_[i], columns[i].quantity.is_integer, columns[i].values);
    }
    for (const EvaluationRow& row : contents.evaluations) {
        write_evaluation(row);
    }
    for (const EventRow& row : contents.events) {
        write_event(row);
    }
    file_.flush();
    file_.start_growing();
}

RunLog RunLog::publish(const std::string& path, LogContents contents,
                       std::span<const LogQuantity> quantities, FolderLock lock) {
    UnfinishedFile unfinished(path);  // removed if anything fails
    RunLog log(path, std::move(contents), quantities, std::move(lock));
    unfinished.publish();
    log.identity_ = identify(path);
    return log;
}

RunLog RunLog::create(const std::string& path, const Attributes& attributes,
                      std::span<const LogQuantity> quantities) {
    FolderLock lock = lock_folder_of(path);
    return publish(path, LogContents{attributes, {}, {}, {}}, quantities, std::move(lock));
}

RunLog RunLog::resume(const std::string& path, const Attributes& attributes,
                      std::span<const LogQuantity> quantities, ResumePoint point,
                      const Notify& notify) {
    FolderLock lock = point.lock.is_held() ? std::move(point.lock) : lock_folder_of(path);
    LogContents contents = read_or_set_aside(path, notify);
    if (!contents.steps.empty()) {
        cut(contents, point.step);
    }
    contents.attributes = attributes;
    return publish(path, std::move(contents), quantities, std::move(lock));
}

RunLog RunLog::extend(const std::string& path, const Notify& notify) {
    FolderLock lock = lock_folder_of(path);
    LogContents contents = read_or_set_aside(path, notify);
    const LogQuantity step{"step", true};
    return publish(path, std::move(contents), std::span(&step, 1), std::move(lock));
}

void RunLog::check_place() const {
    ensure(identify(path_) == identity_,
           path_ +
               " was moved, removed or replaced while the run was writing to it; put the folder "
               "back and start again: the run goes on from its last checkpoint");
}

void RunLog::append_step(std::span<const double> values) {
    ensure(values.size() == given_,
           "a row of the log has another number of values than quantities");
    check_place();
    for (std::size_t i = 0; i < quantities_.size(); ++i) {
        fault_point("log_append");
        const double value = i < given_ ? values[i] : missing(quantities_[i]);
        append_values(steps_[i], quantities_[i].is_integer, std::span(&value, 1));
    }
    flush_row(steps_);
}

void RunLog::append_evaluation(const EvaluationRow& row) {
    fault_point("log_evaluation");
    write_evaluation(row);
    flush_row(evaluations_);
}

void RunLog::append_event(const EventRow& row) {
    write_event(row);
    flush_row(events_);
}

void RunLog::write_evaluation(const EvaluationRow& row) {
    append_one(evaluations_[1], row.model);
    append_one(evaluations_[2], row.protocol);
    append_one(evaluations_[3], row.context);
    append_one(evaluations_[4], row.scored_tokens);
    append_one(evaluations_[5], row.perplexity);
    append_one(evaluations_[0], row.step);
}

void RunLog::write_event(const EventRow& row) {
    append_one(events_[1], row.step);
    append_one(events_[2], row.kind);
    append_one(events_[3], row.message);
    append_one(events_[0], row.time);
}

void RunLog::close() {
    steps_.clear();
    evaluations_.clear();
    events_.clear();
    file_.close();
    lock_ = {};
}

}  // namespace longlora
