#include <fmt/format.h>

#include <cstdio>

#include "tools/commands.h"
#include "tools/errors.h"
#include "tools/files.h"

namespace qconv::tools {

int run_app(CLI::App &app, int argc, char **argv) {
    catch_interrupts();
    const std::string name = app.get_name();
    try {
        app.parse(argc, argv);
        // Output to a full disk fails only here.
        if (std::fflush(stdout) != 0) throw EnvironmentError("standard output: cannot write it");
        return interrupted() ? kExitInterrupted : kExitOk;
    } catch (const CLI::ParseError &error) {
        if (error.get_exit_code() == 0) return app.exit(error); // --help, --version
        fmt::print(stderr, "{}: {} (see --help)\n", name, error.what());
        return kExitInput;
    } catch (const Error &error) {
        fmt::print(stderr, "{}: {}\n", name, error.what());
        return error.code();
    } catch (const std::bad_alloc &) {
        fmt::print(stderr, "{}: out of memory\n", name);
        return kExitEnvironment;
    } catch (const std::exception &error) {
        fmt::print(stderr, "{}: {}\n", name, error.what());
        return kExitEnvironment;
    }
}

} // namespace qconv::tools
