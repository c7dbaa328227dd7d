#include "plan/host_memory.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

// Cgroups that are ordinary files.
class Cgroups {
public:
    explicit Cgroups(const std::string& own) { write("own", own); }

    void write(const std::string& file, const std::string& text) const {
        const auto path = folder_.path() / file;
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << text;
    }
    double room() const {
        return room_in_cgroups(folder_.path() / "own", folder_.path() / "cgroup");
    }

private:
    TemporaryFolder folder_;
};

}  // namespace

// As Slurm sets it: the job has a limit, its steps have lower ones or none.
BOOST_AUTO_TEST_CASE(the_least_of_the_limits_above_counts) {
    const Cgroups cgroups("0::/system.slice/job_7/step_0/task_0\n");
    BOOST_TEST(std::isinf(cgroups.room()));  // paths that are not there

    const std::string job = "cgroup/system.slice/job_7";
    cgroups.write(job + "/memory.max", "64000\n");
    cgroups.write(job + "/memory.current", "5000\n");
    cgroups.write(job + "/memory.stat", "anon 1000\ninactive_file 3000\nactive_file 1000\n");
    cgroups.write(job + "/step_0/memory.max", "max\n");
    cgroups.write(job + "/step_0/memory.current", "4000\n");
    BOOST_TEST(cgroups.room() == 62000);

    cgroups.write(job + "/step_0/task_0/memory.max", "20000\n");
    cgroups.write(job + "/step_0/task_0/memory.current", "25000\n");
    BOOST_TEST(cgroups.room() == 0);  // just over its limit
    cgroups.write(job + "/step_0/task_0/memory.current", "4000\n");
    BOOST_TEST(cgroups.room() == 16000);
}

// In a container the root is its own cgroup, whatever the path says.
BOOST_AUTO_TEST_CASE(the_root_of_the_mount_counts) {
    const Cgroups cgroups("0::/docker/0123\n");
    cgroups.write("cgroup/memory.max", "1000\n");
    cgroups.write("cgroup/memory.current", "100\n");
    BOOST_TEST(cgroups.room() == 900);
    cgroups.write("own", "0::/\n");
    BOOST_TEST(cgroups.room() == 900);
}

BOOST_AUTO_TEST_CASE(version_1_has_a_hierarchy_for_memory) {
    const Cgroups cgroups(
        "12:cpu,cpuacct:/job\n5:memory,hugetlb:/slurm/job\n1:name=systemd:/other\n0::/\n");
    const std::string memory = "cgroup/memory";
    cgroups.write(memory + "/memory.limit_in_bytes", "9223372036854771712\n");
    cgroups.write(memory + "/slurm/job/memory.limit_in_bytes", "8000\n");
    cgroups.write(memory + "/slurm/job/memory.usage_in_bytes", "3000\n");
    cgroups.write(memory + "/slurm/job/memory.stat", "cache 2500\ntotal_inactive_file 2000\n");
    BOOST_TEST(cgroups.room() == 7000);
}

BOOST_AUTO_TEST_CASE(no_more_is_available_than_the_system_has) {
    BOOST_TEST(available_host_memory() > 0);
    BOOST_TEST(available_host_memory() < 1e15);
    BOOST_TEST(std::isinf(room_in_cgroups("/no/such/file", "/sys/fs/cgroup")));
}
