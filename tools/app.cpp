#include <fmt/format.h>

#include <cstdio>

#include "tools/commands.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/text.h"

namespace qconv::tools {

namespace {

/// CLI11 calls a misspelt verb a missing one.
void check_verb(const CLI::App &app, int argc, char **argv) {
    if (argc < 2 || argv[1][0] == '-') return;
    std::vector<std::string> verbs;
    for (const CLI::App *verb : app.get_subcommands({})) {
        if (verb->get_name() == argv[1]) return;
        if (!verb->get_group().empty()) verbs.push_back(verb->get_name());
    }
    throw InputError(
        fmt::format("unknown verb '{}'{}; verbs: {} (see --help)", argv[1], did_you_mean(argv[1], verbs), join(verbs)));
}

} // namespace

int run_app(CLI::App &app, int argc, char **argv) {
    catch_interrupts();
    const std::string name = app.get_name();
    try {
        check_verb(app, argc, argv);
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
