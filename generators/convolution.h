// What every convolution generator shares: the shape constants of a specialised kernel.
#pragma once

#include <string>
#include <vector>

#include "Halide.h"
#include "qconv/layout.h"

namespace qconv {

/// Base of the generators. Sizes are counted over the whole layer, as in the layer file; 0 leaves a size dynamic.
template <class Self>
class ConvolutionGenerator : public Halide::Generator<Self> {
    using Base = Halide::Generator<Self>;

protected:
    using Expr = Halide::Expr;
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;

public:
    Halide::GeneratorParam<int> in_channels{"in_channels", 0};
    Halide::GeneratorParam<int> out_channels{"out_channels", 0};
    Halide::GeneratorParam<int> kernel_taps{"kernel_size", 0};
    Halide::GeneratorParam<int> stride_by{"stride", 0};
    Halide::GeneratorParam<int> dilation_by{"dilation", 0};
    Halide::GeneratorParam<int> groups{"groups", 0};
    // What an autoscheduler assumes of a specialised kernel's calls; our own schedules need no estimates.
    Halide::GeneratorParam<int> width_estimate{"width_estimate", 0};
    Halide::GeneratorParam<int> width_out_estimate{"width_out_estimate", 0};
    Halide::GeneratorParam<int> batch_estimate{"batch_estimate", 1};
    // Layout, as in qconv_kernel.
    Halide::GeneratorParam<bool> unit_stride{"unit_stride", false};
    Halide::GeneratorParam<int> out_block{"out_block", 1};
    Halide::GeneratorParam<int> width_block{"width_block", 1};
    /// Above 1, for targets whose threads run in step: the sums of so many neighbouring positions lie one to a thread.
    Halide::GeneratorParam<int> warp{"warp", 1};
    /// Prepare the input tile by tile of width_block positions, in memory that a tile's threads share, instead of
    /// whole.
    Halide::GeneratorParam<bool> tile_input{"tile_input", false};

protected:
    /// Output position, output channel in its group, group, batch entry; padded input position; channel in its group.
    Halide::Var w{"w"}, o{"o"}, g{"g"}, n{"n"}, p{"p"}, c{"c"};
    Halide::Var input_tile{"input_tile"};

    virtual Expr stride() const = 0;
    bool specialised() const { return in_channels > 0; }
    bool is_unit_stride() const { return unit_stride || (specialised() && stride_by == 1); }
    /// Whether inputs are split by stride phase, for vectors of neighbouring elements. A warp's threads need none.
    bool splits_phases() const { return !is_unit_stride() && warp == 1; }

    /// A size of one group, or a parameter of the layer: the constant of a specialised kernel, else what the call says.
    Expr group_size(int layer_size, const Expr &dynamic) const {
        return specialised() ? Expr(layer_size / groups.value()) : dynamic;
    }
    Expr constant_or(int constant, const Expr &dynamic) const { return specialised() ? Expr(constant) : dynamic; }

    /// Coordinates of an input stage: with tile_input those of a tile, whose positions count from its first.
    template <class T>
    std::vector<T> staged(std::vector<T> coordinates) const {
        if (tile_input) coordinates.push_back(T(input_tile));
        return coordinates;
    }

    /// Arguments of sums over positions `at`: (at, rest...), or with a warp (in_warp, at, rest...), whose position is
    /// at * warp + in_warp, with tile_input counted from the first of the tile, the last argument.
    Halide::Var in_warp{"in_warp"};
    std::vector<Halide::Var> sums_args(const Halide::Var &at, const std::vector<Halide::Var> &rest) const {
        std::vector<Halide::Var> args{at};
        if (warp > 1) args.insert(args.begin(), in_warp);
        args.insert(args.end(), rest.begin(), rest.end());
        return staged(args);
    }
    /// All of `count` positions, loops from the inside: the warps of a tile of width_block positions, the positions in
    /// a warp, the tiles; then `rest`.
    Halide::RDom tiles_of_warps(const Expr &count, const Halide::Region &rest) const {
        const int block = width_block;
        Halide::Region region{{0, warps_of_tile()}, {0, int(warp)}, {0, (count + (block - 1)) / block}};
        region.insert(region.end(), rest.begin(), rest.end());
        return Halide::RDom(region, "result");
    }
    /// Whether one of these positions, at, lies before `end`. With tiles of one warp unsigned, or Halide would count on
    /// a part of the last tile, and what its threads share would have a size that varies.
    Expr before(const Expr &at, const Expr &end) const {
        if (warps_of_tile() > 1) return at < end;
        return Halide::cast<uint32_t>(at) < Halide::cast<uint32_t>(end);
    }
    Expr warp_number(const Expr &in_tile, const Expr &tile) const { return tile * warps_of_tile() + in_tile; }
    int warps_of_tile() const { return width_block.value() / warp.value(); }
    Expr summed_position(const Halide::Var &at) const { return warp > 1 ? at * warp + in_warp : Expr(at); }

    std::vector<Halide::Func> tap_tables; ///< filled by reach()

    /// Splits positions by stride phase, so that neighbouring outputs read neighbouring elements whatever the stride:
    /// phased(q, f, ...) = source(q * stride + f, ...). `rest` are the source's further coordinates.
    Halide::Func by_phase(const Halide::Func &source, const std::vector<Halide::Var> &rest,
                          const std::string &name) const {
        Halide::Func phased(name);
        Halide::Var f("f");
        std::vector<Halide::Var> to{p, f};
        std::vector<Expr> from{p * stride() + f};
        for (const Halide::Var &v : rest)
            to.push_back(v), from.push_back(v);
        phased(to) = source(from);
        return phased;
    }

    /// Padded input position of a stage's position p.
    Expr padded_position() const { return tile_input ? input_tile * int(width_block) * stride() + p : Expr(p); }

    /// Coordinates, for a Func split by by_phase (or the source itself, unless splits_phases()), of the element that
    /// lies `step` * `distance` positions after output `at`'s first; 0 <= step < `steps`.
    std::vector<Expr> reach(const Expr &at, const Expr &step, const Expr &distance, const Expr &steps,
                            const std::vector<Expr> &rest) {
        std::vector<Expr> to;
        if (!splits_phases()) {
            to = {at * stride() + step * distance};
        } else {
            if (tap_tables.empty()) {
                // Divisions, once a call instead of once a step.
                Halide::Func column("tap_column"), offset_in_phase("tap_phase");
                Halide::Var k("k");
                column(k) = k * distance / stride();
                offset_in_phase(k) = k * distance % stride();
                tap_tables = {column, offset_in_phase};
            }
            const Expr last = (steps - 1) * distance / stride();
            to = {at + Halide::unsafe_promise_clamped(tap_tables[0](step), 0, last),
                  Halide::unsafe_promise_clamped(tap_tables[1](step), 0, stride() - 1)};
        }
        to.insert(to.end(), rest.begin(), rest.end());
        return to;
    }

    /// With tile_input: from the output that is `at` places after a tile's first.
    std::vector<Expr> reach_in_tile(const Expr &at, const Expr &of_tile, const Expr &step, const Expr &distance,
                                    const Expr &steps, const std::vector<Expr> &rest) const {
        // Said so that every tile is known to take the same memory.
        const Expr last = (int(width_block) - 1) * stride() + (steps - 1) * distance;
        std::vector<Expr> to{Halide::unsafe_promise_clamped(at * stride() + step * distance, 0, last)};
        to.insert(to.end(), rest.begin(), rest.end());
        to.push_back(of_tile);
        return to;
    }
    /// From the sum at the arguments of sums_args().
    std::vector<Expr> reach_of_sum(const Halide::Var &at, const Expr &step, const Expr &distance, const Expr &steps,
                                   const std::vector<Expr> &rest) {
        if (tile_input) return reach_in_tile(summed_position(at), input_tile, step, distance, steps, rest);
        return reach(summed_position(at), step, distance, steps, rest);
    }

    /// The last index in a dimension of an operand that a call may lack. Our schedules read it only where it is there;
    /// an autoscheduled kernel evaluates every case, then chooses, and may read the one element that stands in
    /// (layout.h).
    Expr last_index(const Expr &extent, const Expr &is_there) const {
        return this->using_autoscheduler() ? Halide::select(is_there, extent - 1, 0) : extent - 1;
    }

    /// ceil_div of sizes that a kernel takes as int32.
    static int blocks(int64_t count, int64_t block) { return static_cast<int>(ceil_div(count, block)); }
    /// Sizes of one group.
    int group_channels() const { return in_channels.value() / groups.value(); }
    int group_outputs() const { return out_channels.value() / groups.value(); }

    /// For autoschedulers: a tensor [width, channels of a group, groups, batch] or any other buffer, by its extents.
    template <class Buffer>
    void estimate_buffer(Buffer &buffer, const std::vector<int> &extents) const {
        for (size_t d = 0; d < extents.size(); d++)
            buffer.dim(static_cast<int>(d)).set_estimate(0, extents[d]);
    }

    template <class Scalar, class Value>
    static void estimate_scalars(std::initializer_list<Scalar *> scalars, Value value) {
        for (Scalar *scalar : scalars)
            scalar->set_estimate(value);
    }
    /// Scalars that choose between operands. Adams2019 wants an estimate of every scalar. Mullapudi2016 puts estimates
    /// into the expressions, and fails a check of its own when it comes to a stage that is not used then.
    template <class Scalar>
    void estimate_switches(std::initializer_list<Scalar *> switches, int value) {
        if (this->context().autoscheduler_params().name != "Mullapudi2016") estimate_scalars(switches, value);
    }

    /// Buffers start at 0; a tensor's channels and groups are known in a specialised kernel. `channels` of the layer.
    template <class Buffer>
    void describe_tensor(Buffer &tensor, int first_channel_dim, int channels) {
        for (int d = 0; d < tensor.dimensions(); d++)
            tensor.dim(d).set_min(0);
        if (!specialised()) return;
        tensor.dim(first_channel_dim).set_extent(channels / groups.value());
        tensor.dim(first_channel_dim + 1).set_extent(int(groups));
    }
};

} // namespace qconv
