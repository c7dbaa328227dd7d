// Boost.Test on ranks with GPUs, which talk by NCCL where there is a GPU for each rank of the test, through
// the host otherwise. With --apart: skipped (77) where it is not NCCL.
#include <cstdio>
#include <string>

#include <boost/test/unit_test.hpp>

#include "comm/environment.hpp"
#include "comm/transport.hpp"
#include "core/cuda_device.hpp"

int main(int argc, char** argv) {
    const longlora::Environment environment;
    const int count = longlora::cuda_device_count();
    if (count == 0) {
        std::puts("skipped: this process sees no GPU");
        return 77;
    }
    longlora::use_cuda_device(longlora::world_rank() % count);
    const auto world = longlora::Communicator<longlora::Cpu>::world();
    const auto chosen = longlora::choose_transport(world, longlora::Transport::automatic);
    const bool is_skipped =
        argc > 1 && std::string(argv[1]) == "--apart" && !chosen.starts_with("NCCL");
    if (longlora::world_rank() == 0) {
        std::printf("%smessages by %s\n", is_skipped ? "skipped: " : "", chosen.c_str());
    }
    return is_skipped ? 77 : boost::unit_test::unit_test_main([] { return true; }, 1, argv);
}
