// Boost.Test on one GPU. Where there is none, exit 77: ctest shows the test as skipped.
#include <cstdio>
#include <cstdlib>

#include <boost/test/unit_test.hpp>

#include "core/cuda_device.hpp"

int main(int argc, char** argv) {
    if (longlora::cuda_device_count() == 0) {
        std::puts("skipped: this process sees no GPU");
        return 77;
    }
    // An assert that fails in an emulated kernel shall end the program: Boost would leave the kernel's
    // stack for its own, and the emulator would wait.
    setenv("BOOST_TEST_CATCH_SYSTEM_ERRORS", "no", 0);
    return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
