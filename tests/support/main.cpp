// Boost.Test under MPI: every rank runs the same cases, the worst result is everybody's.
#include <boost/test/unit_test.hpp>
#include <mpi.h>

#include "comm/environment.hpp"

int main(int argc, char** argv) {
    longlora::Environment environment;
    const int mine = boost::unit_test::unit_test_main([] { return true; }, argc, argv);
    int worst = 0;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}
