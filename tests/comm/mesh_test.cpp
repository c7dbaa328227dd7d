#include "comm/mesh.hpp"

#include <boost/test/unit_test.hpp>

using namespace longlora;

BOOST_AUTO_TEST_CASE(ranks_of_a_sequence_are_neighbours) {
    const auto world = Communicator<Cpu>::world();
    for (int sequence = 1; sequence <= world.size(); ++sequence) {
        if (world.size() % sequence != 0) {
            continue;
        }
        const Mesh<Cpu> mesh(sequence);
        BOOST_TEST(mesh.sequence_size() == sequence);
        BOOST_TEST(mesh.data_size() == world.size() / sequence);
        BOOST_TEST(mesh.data_index() * sequence + mesh.sequence_index() == world.rank());
        BOOST_TEST(mesh.sequence().size() == sequence);
        BOOST_TEST(mesh.sequence().rank() == mesh.sequence_index());
        BOOST_TEST(mesh.world().size() == world.size());
        BOOST_TEST(mesh.is_root() == (world.rank() == 0));

        // Those who share my sequence are the ranks data_index * sequence + 0, 1, ...
        const auto first = static_cast<std::int64_t>(mesh.data_index()) * sequence;
        const std::int64_t expected = sequence * first + sequence * (sequence - 1) / 2;
        BOOST_TEST(mesh.sequence().sum<std::int64_t>(world.rank()) == expected);
    }
}
