#include "core/system_reason.hpp"

#include <cerrno>
#include <cstring>

#include <boost/test/unit_test.hpp>

using namespace longlora;

BOOST_AUTO_TEST_SUITE(system_reason_test)

BOOST_AUTO_TEST_CASE(a_reason_comes_with_what_to_do) {
    BOOST_TEST(system_reason(ENOSPC) ==
               "No space left on device; free some space there, or choose another place");
    BOOST_TEST(with_remedy(std::strerror(EROFS)) ==
               "Read-only file system; choose a place that can be written");
}

BOOST_AUTO_TEST_CASE(other_reasons_stay) {
    BOOST_TEST(system_reason(EIO) == std::strerror(EIO));
    BOOST_TEST(with_remedy("truncated file").find(';') == std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
