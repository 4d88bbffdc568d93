// qconvc-emit: what the build needs of qconvc before there is one.
#include "tools/commands.h"

int main(int argc, char **argv) {
    CLI::App app("Emits kernels while qconv is being built", "qconvc-emit");
    app.require_subcommand(1);
    qconv::tools::add_emit_kernel_command(app, "kernel");
    qconv::tools::add_emit_runtime_command(app, "runtime");
    qconv::tools::add_emit_table_command(app, "table");
    return qconv::tools::run_app(app, argc, argv);
}
