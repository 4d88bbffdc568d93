// Main of the test programs: Catch2's, after a look at the seed of the random tests.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_RUNNER
#endif
#include "support/catch.h"
#include "support/seed.h"

int main(int argc, char **argv) {
    if (!qconv::test::check_seed(argv[0])) return 2;
    return Catch::Session().run(argc, argv);
}
