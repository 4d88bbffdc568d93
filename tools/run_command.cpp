// qconvc run: one layer on tensors from files.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "qconv/qconv.h"
#include "tools/commands.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_loading.h"
#include "tools/layer_file.h"
#include "tools/layer_run.h"
#include "tools/npy.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

struct Options {
    std::string layer, name, input, weight, bias, output, target = "host", kernels = "generic";
    std::string grad_output, grad_input, grad_weight, grad_bias;
    std::string kernel, grad_input_kernel, grad_weight_kernel;
    int threads = 0, repeat = 1;
    bool json = false;
};

struct Dimension {
    const char *name;
    int64_t size; // -1: any
};

/// Reads a tensor of the wanted shape; the message of a mismatch names the dimension and where its size comes from.
Tensor read_tensor(const std::string &path, const char *option, const std::vector<Dimension> &wanted) {
    Tensor tensor = read_npy(path);
    std::vector<std::string> shown;
    for (const Dimension &d : wanted)
        shown.push_back(d.size < 0 ? d.name : fmt::format("{} {}", d.name, d.size));
    const auto fail = [&](const std::string &what) {
        return InputError(fmt::format("{} ({}): shape {}: {}; it must be [{}]", path, option, shown_shape(tensor.shape),
                                      what, join(shown)));
    };
    if (tensor.shape.size() != wanted.size()) throw fail(fmt::format("rank {}", tensor.shape.size()));
    for (std::size_t i = 0; i < wanted.size(); i++) {
        if (wanted[i].size >= 0 && tensor.shape[i] != wanted[i].size) {
            throw fail(fmt::format("dimension {} is {}", i, tensor.shape[i]));
        }
    }
    return tensor;
}

/// The files to write and what goes into them, by option; a gradient needs --grad-output.
struct Outputs {
    bool y, grad_input, grad_weight, grad_bias;
    bool gradients() const { return grad_input || grad_weight || grad_bias; }
};

Outputs wanted_outputs(const Options &o, const LayerSpec &layer) {
    const Outputs outputs = {!o.output.empty(), !o.grad_input.empty(), !o.grad_weight.empty(), !o.grad_bias.empty()};
    if (o.grad_output.empty()) {
        for (const auto &[given, option] : {std::pair{outputs.grad_input, "--grad-input"},
                                            {outputs.grad_weight, "--grad-weight"},
                                            {outputs.grad_bias, "--grad-bias"}})
            if (given)
                throw InputError(fmt::format("{}: needs --grad-output, the gradient of the layer's output", option));
        if (!outputs.y) throw InputError("nothing to write: give --output, or --grad-output and a gradient to write");
    } else if (!outputs.gradients()) {
        throw InputError("--grad-output: give --grad-input, --grad-weight or --grad-bias to write");
    }
    if (outputs.grad_bias && !layer.bias)
        throw InputError(fmt::format("--grad-bias: layer '{}' has no bias ('bias' is false)", layer.name));
    std::set<std::string> names;
    for (const std::string &name : {o.output, o.grad_input, o.grad_weight, o.grad_bias})
        if (!name.empty() && !names.insert(name).second)
            throw InputError(fmt::format("'{}' is given for two outputs; their names must differ", name));
    return outputs;
}

/// The tensors of the command line; their shapes fit the layer.
LayerData read_data(const Options &options, const LayerSpec &layer) {
    const qconv_layer_config &config = layer.config;
    if (layer.bias && options.bias.empty()) {
        throw InputError(fmt::format("layer '{}' has a bias: give it with --bias b.npy", layer.name));
    }
    if (!layer.bias && !options.bias.empty()) {
        throw InputError(fmt::format("--bias: layer '{}' has none ('bias' is false)", layer.name));
    }
    Tensor x =
        read_tensor(options.input, "--input", {{"batch", -1}, {"in_channels", config.in_channels}, {"width", -1}});
    LayerData data;
    data.batch = x.shape[0];
    data.width = x.shape[2];
    data.x = std::move(x.data);
    data.weight = read_tensor(options.weight, "--weight",
                              {{"out_channels", config.out_channels},
                               {"in_channels/groups", config.in_channels / config.groups},
                               {"kernel_size", config.kernel_size}})
                      .data;
    if (layer.bias) data.bias = read_tensor(options.bias, "--bias", {{"out_channels", config.out_channels}}).data;
    return data;
}

/// The least seconds of `repeat` calls.
double least_seconds(int repeat, const std::function<void()> &call) {
    double least = INFINITY;
    for (int i = 0; i < repeat; i++) {
        check_interrupt();
        const auto start = std::chrono::steady_clock::now();
        call();
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return least;
}

/// One tensor that is written.
struct Written {
    const char *name;
    std::string file;
    std::vector<int64_t> shape;
};

/// What one direction took.
struct Timed {
    qconv_op op;
    double seconds;
};

std::vector<Written> write_outputs(const Options &options, const Outputs &outputs, const LayerRun &layer) {
    const qconv_layer_config &c = layer.config();
    const int64_t batch = layer.data().batch;
    std::vector<Written> written;
    FileSet files;
    const auto add = [&](bool wanted, const char *name, const std::string &file, std::vector<int64_t> shape,
                         const std::vector<float> &values) {
        if (!wanted) return;
        add_npy(files, file, shape, values);
        written.push_back({name, file, std::move(shape)});
    };
    add(outputs.y, "y", options.output, {batch, c.out_channels, layer.width_out()}, layer.y());
    add(outputs.grad_input, "grad_input", options.grad_input, {batch, c.in_channels, layer.data().width},
        layer.grad_input());
    add(outputs.grad_weight, "grad_weight", options.grad_weight,
        {c.out_channels, c.in_channels / c.groups, c.kernel_size}, layer.grad_weight());
    add(outputs.grad_bias, "grad_bias", options.grad_bias, {c.out_channels}, layer.grad_bias());
    files.commit();
    return written;
}

nlohmann::ordered_json kernel_json(const qconv_kernel &kernel, double seconds) {
    return {{"kernel", kernel.name},
            {"path", qconv_path_name(kernel.path)},
            {"target", kernel.target},
            {"specialised", kernel.in_channels > 0},
            {"seconds", seconds}};
}

void print_json(const LayerSpec &spec, const LayerRun &layer, const std::vector<Timed> &times,
                const std::vector<Written> &written) {
    nlohmann::ordered_json json = {{"layer", spec.name}, {"threads", qconv_get_num_threads()}};
    for (const Timed &timed : times)
        json[qconv_op_name(timed.op)] = kernel_json(layer.kernel(timed.op), timed.seconds);
    for (const Written &output : written)
        json["files"][output.name] = {{"file", output.file}, {"shape", output.shape}};
    fmt::print("{}\n", json.dump(2));
}

void run(const Options &options) {
    LayerSpec spec = read_one_layer(options.layer, options.name);
    qconv_layer_config &config = spec.config;
    const Outputs outputs = wanted_outputs(options, spec);
    LayerData data = read_data(options, spec);
    config.directions = QCONV_FORWARD;
    config.width = data.width;
    if (outputs.grad_input) config.directions |= QCONV_GRAD_INPUT;
    if (outputs.grad_weight || outputs.grad_bias) config.directions |= QCONV_GRAD_WEIGHT;

    const std::vector<TargetInfo> targets = find_targets({options.target});
    if (targets.size() != 1) throw InputError("--target: run takes one target");
    require_cpu_support(targets[0]);
    if (options.kernels == "generic") {
        register_generic_kernels(targets);
    } else {
        register_specialised_kernels({spec}, targets, usable_cpus());
    }
    const auto force = [&](qconv_op op, const std::string &kernel) {
        if (!kernel.empty()) forced_kernel(config, op) = kernel.c_str();
    };
    force(QCONV_OP_FORWARD, options.kernel);
    force(QCONV_OP_GRAD_INPUT, options.grad_input_kernel);
    force(QCONV_OP_GRAD_WEIGHT, options.grad_weight_kernel);
    if (options.threads > 0) check(qconv_set_num_threads(options.threads), "--threads");

    LayerRun layer(config, data, fmt::format("{}: layer '{}' with {}", options.layer, spec.name, options.input));
    std::vector<Timed> times;
    const auto time = [&](qconv_op op, const std::function<void()> &call) {
        times.push_back({op, least_seconds(options.repeat, call)});
    };
    if (outputs.gradients()) {
        data.grad_output =
            read_tensor(
                options.grad_output, "--grad-output",
                {{"batch", data.batch}, {"out_channels", config.out_channels}, {"width_out", layer.width_out()}})
                .data;
        time(QCONV_OP_FORWARD, [&] { layer.forward_training(); });
        if (outputs.grad_input)
            time(QCONV_OP_GRAD_INPUT, [&] { layer.backward({.input = true, .weight = false, .bias = false}); });
        if (config.directions & QCONV_GRAD_WEIGHT)
            time(QCONV_OP_GRAD_WEIGHT,
                 [&] { layer.backward({.input = false, .weight = outputs.grad_weight, .bias = outputs.grad_bias}); });
    } else {
        time(QCONV_OP_FORWARD, [&] { layer.forward(); });
    }
    const std::vector<Written> written = write_outputs(options, outputs, layer);
    if (options.json) return print_json(spec, layer, times, written);
    for (const Timed &timed : times) {
        const qconv_kernel &kernel = layer.kernel(timed.op);
        const bool forward = timed.op == QCONV_OP_FORWARD;
        fmt::print("{}: {} with {} ({}, {}), {} threads, {}\n", spec.name,
                   forward ? describe_layer(spec) : op_option(timed.op), kernel.name, qconv_path_name(kernel.path),
                   kernel.target, qconv_get_num_threads(), human_seconds(timed.seconds));
    }
    for (const Written &output : written)
        fmt::print("{}: float32 {}\n", printable(output.file), shown_shape(output.shape));
}

} // namespace

void add_run_command(CLI::App &app) {
    auto options = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("run", "Run one layer on tensors from .npy files");
    command->add_option("-l,--layer", options->layer, "Layer file")->required();
    command->add_option("--name", options->name, "Which layer, when the file holds several");
    command->add_option("-x,--input", options->input, "x [batch, in_channels, width]")->required();
    command->add_option("-w,--weight", options->weight, "weight [out_channels, in_channels/groups, kernel_size]")
        ->required();
    command->add_option("-b,--bias", options->bias, "bias [out_channels], for a conv1d with \"bias\": true");
    command->add_option("-o,--output", options->output, "Writes y [batch, out_channels, width_out]");
    command->add_option("--grad-output", options->grad_output,
                        "The gradient of y, shaped as y: runs forward_training and backward");
    command->add_option("--grad-input", options->grad_input, "Writes the gradient of x");
    command->add_option("--grad-weight", options->grad_weight, "Writes the gradient of weight");
    command->add_option("--grad-bias", options->grad_bias, "Writes the gradient of bias");
    command->add_option("-t,--target", options->target, "Target whose kernels to use")->capture_default_str();
    command->add_option("--kernels", options->kernels, "generic, or specialised: compile the layer first")
        ->check(CLI::IsMember({"generic", "specialised"}))
        ->capture_default_str();
    command->add_option("--kernel", options->kernel,
                        "The one forward kernel to use (qconvc list kernels); default: the best");
    command->add_option("--grad-input-kernel", options->grad_input_kernel, "The one for grad_input");
    command->add_option("--grad-weight-kernel", options->grad_weight_kernel, "The one for grad_weight");
    command->add_option("--threads", options->threads, "Threads; default: all this process may use")
        ->check(CLI::Range(1, 1024));
    command->add_option("--repeat", options->repeat, "Calls a direction; the least time is shown")
        ->check(CLI::Range(1, 1000000))
        ->capture_default_str();
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        ".npy files are float32, little-endian, C order. Several outputs are put in place together.\n\n"
        "Examples:\n"
        "  qconvc run --layer conv.json --input x.npy --weight w.npy --output y.npy\n"
        "  qconvc run -l net.json --name conv2 -x x.npy -w w.npy -o y.npy --target avx2 --repeat 100\n"
        "  qconvc run -l net.json --name conv2 -x x.npy -w w.npy --grad-output gy.npy --grad-input gx.npy \\\n"
        "             --grad-weight gw.npy");
    command->callback([options] { run(*options); });
}

} // namespace qconv::tools
