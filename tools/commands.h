// The verbs of qconvc: each adds its subcommand, whose callback throws tools::Error to end other than well.
#pragma once

#include <CLI/CLI.hpp>

namespace qconv::tools {

void add_compile_command(CLI::App &app);
void add_list_command(CLI::App &app);
void add_run_command(CLI::App &app);
void add_verify_command(CLI::App &app);
void add_bench_command(CLI::App &app);
void add_inspect_command(CLI::App &app);
void add_tune_command(CLI::App &app);

/// The emission verbs that the build (qconvc-emit) and the worker processes (qconvc, hidden) share.
void add_emit_kernel_command(CLI::App &app, const char *name);
void add_emit_runtime_command(CLI::App &app, const char *name);
void add_emit_table_command(CLI::App &app, const char *name);

/// What a tuning run's worker processes run (hidden).
void add_build_candidate_command(CLI::App &app, const char *name);

/// Parses the command line, runs the verb, prints the one message of an error, and returns the exit code.
int run_app(CLI::App &app, int argc, char **argv);

} // namespace qconv::tools
