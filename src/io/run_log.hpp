#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/view.hpp"
#include "io/durable.hpp"
#include "io/hdf5.hpp"

// log.h5 of a run: readable while it grows (h5py with swmr=True, or read_log), by any HDF5 tool
// once it is closed. Only rank 0 has one.
namespace longlora {

struct LogQuantity {
    std::string name;         // dataset /steps/<name>
    bool is_integer = false;  // int64 instead of float64
};

struct EvaluationRow {
    Index step = 0;
    std::string model;     // base, interpolated, trained; 16 bytes
    std::string protocol;  // sliding, longlora; 16 bytes
    Index context = 0;
    Index scored_tokens = 0;
    double perplexity = 0;
};

struct EventRow {
    double time = 0;  // seconds since 1970
    Index step = 0;
    std::string kind;     // 32 bytes
    std::string message;  // 256 bytes
};

struct LogColumn {
    LogQuantity quantity;
    std::vector<double> values;
};

struct LogContents {
    Attributes attributes;
    std::vector<LogColumn> steps;  // of equal length; "step" comes first
    std::vector<EvaluationRow> evaluations;
    std::vector<EventRow> events;

    // Values of /steps/<name>; empty when there is no such quantity.
    std::span<const double> column(const std::string& name) const;
};

// Reads everything, also while a run appends or after its writer was killed.
LogContents read_log(const std::string& path);

// Whether its last writer has closed it; one that was killed leaves a mark, which keeps other tools
// than this one from opening the log.
bool is_closed_log(const std::string& path);

struct ResumePoint {
    ResumePoint(Index after, FolderLock held = {}) : step(after), lock(std::move(held)) {}

    Index step;
    FolderLock lock;  // of the log's folder; taken where it is not held yet
};

class RunLog {
public:
    // `quantities` begin with the integer "step". A file that is already there is replaced.
    static RunLog create(const std::string& path, const Attributes& attributes,
                         std::span<const LogQuantity> quantities);

    // Goes on after the step: rows of later steps are cut, attributes and quantities are those given
    // (rows of before have NaN, or 0, in a new quantity; an old one is kept and goes on so). The
    // log is written anew beside the old one, so that a kill here loses nothing and a killed
    // writer's mark is gone. An unreadable log is set aside as log.h5.damaged-<n>, which `notify`
    // hears of; a missing one is created.
    static RunLog resume(const std::string& path, const Attributes& attributes,
                         std::span<const LogQuantity> quantities, ResumePoint point,
                         const Notify& notify);

    // Goes on with all that is there, to add evaluations to a run that has ended.
    static RunLog extend(const std::string& path, const Notify& notify);

    // An Error when the log does not lie any more where it was made: what follows would be lost.
    void check_place() const;
    void append_step(std::span<const double> values);  // in the order of `quantities`
    void append_evaluation(const EvaluationRow& row);
    void append_event(const EventRow& row);  // longer texts are cut
    void close();                            // checked; the destructor closes too, unchecked

private:
    RunLog(const std::string& path, LogContents contents, std::span<const LogQuantity> quantities,
           FolderLock lock);
    static RunLog publish(const std::string& path, LogContents contents,
                          std::span<const LogQuantity> quantities, FolderLock lock);
    void write_evaluation(const EvaluationRow& row);
    void write_event(const EventRow& row);

    FolderLock lock_;
    std::string path_;
    FileIdentity identity_;
    Hdf5File file_;
    std::vector<LogQuantity> quantities_;
    std::size_t given_;  // the first ones of quantities_ are the caller's
    std::vector<Hdf5Dataset> steps_;
    std::vector<Hdf5Dataset> evaluations_;
    std::vector<Hdf5Dataset> events_;
};

}  // namespace longlora
