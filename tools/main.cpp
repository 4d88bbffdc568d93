// qconvc: from a layer file to kernels, and to figures about them.
#include <fmt/format.h>

#include "qconv/qconv.h"
#include "tools/commands.h"

int main(int argc, char **argv) {
    using namespace qconv::tools;
    CLI::App app("Compiles quantized 1-D convolution layers into static libraries, and runs, checks and times them.",
                 "qconvc");
    app.set_version_flag("--version", fmt::format("qconvc {} (Halide {})", qconv_version(), QCONV_HALIDE_VERSION));
    app.require_subcommand(1);
    app.footer(
        "Exit codes: 0 done; 1 a check failed; 2 bad usage or input; 3 the machine (unwritable folder, full disk,\n"
        "missing CPU feature, compiler); 130 interrupted.\n\n"
        "Examples:\n"
        "  qconvc compile net.json --target host -o kernels\n"
        "  qconvc verify net.json\n"
        "  qconvc tune net.json --target host --budget 10m\n"
        "  qconvc <verb> --help");
    add_compile_command(app);
    add_list_command(app);
    add_run_command(app);
    add_verify_command(app);
    add_bench_command(app);
    add_inspect_command(app);
    add_tune_command(app);
    // Hidden: what compile's worker processes run.
    add_emit_kernel_command(app, "emit-kernel");
    add_emit_runtime_command(app, "emit-runtime");
    add_build_candidate_command(app, "build-candidate");
    for (const char *hidden : {"emit-kernel", "emit-runtime", "build-candidate"})
        app.get_subcommand(hidden)->group("");
    return run_app(app, argc, argv);
}
