// Forward of real inputs and binary weights by table lookup. For every group of G = table_channels channels a table
// holds, at each position, the 2^G signed sums of those channels; each output channel and tap then adds the one entry
// that its G weight bits choose: G multiply-accumulates an addition.
#include "forward.h"
#include "lookup.h"

namespace qconv {
namespace {

using namespace Halide;

class ForwardF32B1 : public ForwardGenerator<ForwardF32B1, Buffer<uint8_t, 5>, Buffer<float, 2>> {
public:
    GeneratorParam<int> table_channels{"table_channels", 5};
    GeneratorParam<int> tables{"tables", 2};

    void generate() {
        describe_buffers({tables});
        input.push_back(float_input());
        if (!is_unit_stride()) input.push_back(by_phase(input.back(), {c, g, n}, "padded_by_phase"));
        std::vector<Var> at{p};
        if (!is_unit_stride()) at.emplace_back("f");
        Var q("q"); // group of channels
        lookup = build_table(table_channels, at, j, {q, g, n}, [&](int b) {
            std::vector<Expr> value(at.begin(), at.end());
            value.insert(value.end(), {Expr(q * table_channels + b), Expr(g), Expr(n)});
            return input.back()(value);
        });

        // part sums the tables in use at once over the taps; acc sums the chunks of tables.
        Var z("z");
        RDom r(0, kernel_size(), 0, tables, "r");
        taps = r.x, rows = r.y;
        const Expr bits = cast<int32_t>(weight(r.y, r.x, o, z, g));
        const Expr entry = unsafe_promise_clamped(bits, 0, (1 << table_channels) - 1);
        part(w, o, g, n, z) = 0.0f;
        part(w, o, g, n, z) += lookup.table(reach(w, r.x, dilation(), kernel_size(), {entry, z * tables + r.y, g, n}));

        RDom chunk(0, (channels() + (chunk_channels() - 1)) / chunk_channels(), "chunk");
        chunks = chunk.x;
        acc(w, o, g, n) = 0.0f;
        acc(w, o, g, n) += part(w, o, g, n, chunk);
        y(w, o, g, n) = offset(o, g) + acc(w, o, g, n);
    }

    void schedule() {
        if (using_autoscheduler()) {
            return estimate_call(
                {tables, kernel_taps, group_outputs(), blocks(group_channels(), chunk_channels()), groups});
        }
        schedules::LookupStages stages;
        fill(stages, input, float_input_cases());
        stages.phased = is_unit_stride() ? Func() : input.back();
        stages.halves = lookup.halves, stages.table = lookup.table, stages.entry = j;
        stages.table_entries = 1 << table_channels;
        stages.part = part, stages.taps = taps, stages.tables = rows;
        stages.acc = acc, stages.chunks = chunks;
        schedules::apply(stages, context());
    }

private:
    /// Input channels of a chunk: those of all its tables.
    int chunk_channels() const { return tables.value() * table_channels.value(); }

    std::vector<Func> input;
    LookupTable lookup;
    Func part{"part"}, acc{"acc"};
    RVar taps, rows, chunks;
    Var j{"j"}; // entry of a table
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardF32B1, forward_f32b1)
