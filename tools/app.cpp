#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "tools/commands.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/report.h"
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
    hold_standard_streams();
    catch_interrupts();
    const std::string name = app.get_name();
    const auto fail = [&](ExitCode code, const std::string &text) {
        report(name + ": " + text);
        return code;
    };
    try {
        check_verb(app, argc, argv);
        app.parse(argc, argv);
        // Output to a full disk fails only here.
        if (std::fflush(stdout) != 0) throw EnvironmentError("standard output: cannot write it");
        return interrupted() ? kExitInterrupted : kExitOk;
    } catch (const CLI::ParseError &error) {
        if (error.get_exit_code() != 0) return fail(kExitInput, std::string(error.what()) + " (see --help)");
        const int code = app.exit(error); // --help, --version
        return std::cout.flush() ? code : fail(kExitEnvironment, "standard output: cannot write it");
    } catch (const Error &error) {
        return fail(error.code(), error.what());
    } catch (const std::bad_alloc &) {
        return fail(kExitEnvironment, "out of memory");
    } catch (const std::exception &error) {
        return fail(kExitEnvironment, one_line(error.what())); // of a library, some in several lines
    }
}

} // namespace qconv::tools
