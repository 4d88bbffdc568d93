// What the forward generators share: inputs, shape facts, padding, and the correction at the edge columns.
#pragma once

#include <functional>

#include "Halide.h"
#include "convolution.h"
#include "edges.h"
#include "qconv/layout.h"
#include "quantizers.h"
#include "schedules/schedule.h"

namespace qconv {

/// Base of the forward generators. The inputs are those of ForwardArg, in its order; layout.h documents each.
/// `Weight` and `Offset` are the path's buffer types.
template <class Self, class Weight, class Offset>
class ForwardGenerator : public ConvolutionGenerator<Self> {
    using Base = ConvolutionGenerator<Self>;

protected:
    using typename Base::Expr;
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;
    using Base::c, Base::g, Base::n, Base::o, Base::p, Base::w, Base::is_unit_stride, Base::specialised;

public:
    Input<Halide::Buffer<float, 4>> x{"x"};
    Input<Weight> weight{"weight"};
    Input<Offset> offset{"offset"};
    Input<Halide::Buffer<float, 3>> edge{"edge"};
    Input<int32_t> kernel_size_in{"kernel_size_in", 1, 1, 1 << 30};
    Input<int32_t> stride_in{"stride_in", 1, 1, 1 << 30};
    Input<int32_t> dilation_in{"dilation_in", 1, 1, 1 << 30};
    Input<int32_t> pad_left{"pad_left"};
    Input<int32_t> tile_width{"tile_width"};
    Input<int32_t> edge_left{"edge_left"};
    Input<int32_t> edge_right{"edge_right"};
    Input<int32_t> pad_level{"pad_level"};
    Input<int32_t> dot_factor{"dot_factor"};
    Input<int32_t> window_factor{"window_factor"};
    Input<float> scale{"scale"};
    Input<float> pad_delta{"pad_delta"};
    Input<float> pad_value{"pad_value"};
    Input<int32_t> quantizer{"quantizer"};
    Input<float> levels{"levels"};
    Input<float> divisor{"divisor"};
    Input<int32_t> next{"next"};
    Input<float> next_levels{"next_levels"};
    Input<float> next_divisor{"next_divisor"};
    Input<float> mix{"mix"};
    Output<Halide::Buffer<float, 4>> y{"y"};

protected:
    schedules::InputValues prepared; ///< of float_input(), if that is called
    Halide::RDom positions;          ///< with a warp: of y, as tiles_of_warps() has them

    Expr channels() const { return this->group_size(this->in_channels, x.dim(1).extent()); }
    Expr outputs() const { return this->group_size(this->out_channels, y.dim(1).extent()); }
    Expr kernel_size() const { return this->constant_or(this->kernel_taps, kernel_size_in); }
    Expr dilation() const { return this->constant_or(this->dilation_by, dilation_in); }
    Expr stride() const override {
        return this->is_unit_stride() ? Expr(1) : this->constant_or(this->stride_by, stride_in);
    }
    Expr width() const { return x.dim(0).extent(); }

    /// Whether padded position `at` lies inside x, and the x element nearest to it.
    Expr inside(const Expr &at) const { return at >= pad_left && at < pad_left + width(); }
    Expr element(const Expr &at, const Expr &channel) const {
        return x(Halide::clamp(Halide::likely(at - pad_left), 0, width() - 1), channel, g, n);
    }

    /// Fills the part of a schedule's stages that every path has.
    void fill(schedules::OutputStages &stages, const std::vector<Halide::Func> &input,
              const std::vector<Expr> &first_stage_cases) const {
        stages.y = y, stages.w = w, stages.o = o, stages.g = g, stages.n = n, stages.p = p;
        stages.tile_width = tile_width, stages.width_block = this->width_block;
        stages.warp = this->warp, stages.in_warp = this->in_warp, stages.tile_input = this->tile_input;
        stages.input_tile = this->input_tile;
        if (this->warp > 1) stages.strip = positions.x, stages.thread = positions.y, stages.tile = positions.z;
        stages.input = input, stages.first_stage_cases = first_stage_cases;
        stages.prepared = prepared;
        stages.tap_tables = this->tap_tables;
        if (!is_unit_stride() && !specialised()) stages.phase_cases = {stride() == 2};
    }

    /// The input of the float paths, quantized and padded, at padded position p and channel c; channels past the last
    /// are 0. What is no more than a few operations is done here, all other quantizers in a pass before.
    Halide::Func float_input() {
        using Halide::select;
        using Halide::strict_float;
        using quantizers::choose;
        const quantizers::InputQuantizer q = input_quantizer();
        const Expr channel = Halide::min(c, channels() - 1);
        const Halide::Var i("i"); // position of x
        const Expr before = x(Halide::clamp(Halide::likely(i), 0, width() - 1), c, g, n);
        prepared.values(i, c, g, n) = q.quantize(before, {i, c, g, n}, prepared.values_kinds);
        prepared.values_cases = {mix == 0.0f};

        const Expr v = element(p, channel);
        const Expr at = Halide::clamp(Halide::likely(p - pad_left), 0, width() - 1);
        Expr value = prepared.values(at, channel, g, n);
        value = choose(q.is(QCONV_INPUTDOREFA), strict_float(quantizers::inputdorefa(v, levels)), value);
        value = choose(q.is(QCONV_SIGN), strict_float(quantizers::sign(v)), value);
        value = choose(q.is(QCONV_IDENTITY), v, value);
        Halide::Func padded("padded");
        padded(p, c, g, n) = select(c < channels(), select(Halide::likely(inside(p)), value, pad_value), 0.0f);
        prepared.padded_cases = {q.is(QCONV_IDENTITY), q.is(QCONV_SIGN), q.is(QCONV_INPUTDOREFA)};
        return padded;
    }
    const std::vector<Expr> &float_input_cases() const { return prepared.padded_cases; }
    quantizers::InputQuantizer input_quantizer() const {
        return {quantizer, levels, divisor, next, next_levels, next_divisor, mix};
    }

    /// The result at an output position, given the coordinates of its sums.
    using Result = std::function<Expr(const Expr &position, const std::vector<Expr> &sums)>;

    /// y = result, and with `edges` + pad_delta * (weights of the taps outside x), at the columns that reach over an
    /// end (layout.h). By warps of positions all in one pass, else the edges in passes of their own.
    void define_output(const Result &result, bool edges) {
        using Halide::min;
        const EdgeColumns columns{edge_left, edge_right, pad_left, width(), kernel_size(), stride(), dilation()};
        if (this->warp == 1) {
            y(w, o, g, n) = result(w, {w, o, g, n});
            if (edges) columns.correct(y, y.dim(0).extent(), pad_delta, edge, o, g, n);
            return;
        }
        const Expr width_out = y.dim(0).extent();
        positions = this->tiles_of_warps(width_out, {});
        const Expr warps = this->warp_number(positions.x, positions.z), at = warps * this->warp + positions.y;
        positions.where(this->before(at, width_out));
        std::vector<Expr> sums{positions.y, warps, o, g, n};
        if (this->tile_input) sums = {positions.y, positions.x, o, g, n, positions.z};
        Expr value = result(at, sums);
        if (edges) {
            using quantizers::choose;
            value = value + choose(at < edge_left, pad_delta * columns.over_left(edge, at, o, g), 0.0f) +
                    choose(at >= edge_right, pad_delta * columns.over_right(edge, at, o, g), 0.0f);
        }
        y(w, o, g, n) = Halide::undef<float>();
        y(min(at, width_out - 1), o, g, n) = value; // said so that no position beyond is asked for
    }

    /// Estimates for an autoscheduler, of a call with few edge columns; `weight_extents` are those of the packed
    /// weights.
    void estimate_call(const std::vector<int> &weight_extents) {
        const int out = this->width_out_estimate, images = this->batch_estimate, group_count = this->groups;
        this->estimate_buffer(x, {this->width_estimate, this->group_channels(), group_count, images});
        this->estimate_buffer(weight, weight_extents);
        this->estimate_buffer(offset, {this->group_outputs(), group_count});
        this->estimate_buffer(edge, {this->kernel_taps + 1, this->group_outputs(), group_count});
        this->estimate_buffer(y, {out, this->group_outputs(), group_count, images});
        kernel_size_in.set_estimate(int(this->kernel_taps));
        stride_in.set_estimate(int(this->stride_by));
        dilation_in.set_estimate(int(this->dilation_by));
        tile_width.set_estimate(out);
        edge_right.set_estimate(out - 1);
        this->estimate_scalars({&pad_left, &pad_level, &next}, 0);
        this->estimate_scalars({&edge_left, &dot_factor, &window_factor, &quantizer}, 1);
        this->estimate_scalars({&mix}, 0.0f);
        // Not 0, which would leave out a stage: see estimate_switches().
        this->estimate_scalars({&pad_delta}, 1.0f);
        this->estimate_scalars({&scale, &pad_value, &levels, &divisor, &next_levels, &next_divisor}, 1.0f);
    }
    int out_blocks() const { return this->blocks(this->group_outputs(), this->out_block); }

    /// Buffers start at 0 and packed weights are dense, `block` being the known extents of their inner dimensions; the
    /// constants of a specialised kernel are made known to the compiler.
    void describe_buffers(const std::vector<int> &block) {
        for (size_t d = 0; d < block.size(); d++)
            weight.dim(d).set_extent(block[d]);
        for (int d = 1; d < weight.dimensions(); d++) {
            weight.dim(d).set_stride(weight.dim(d - 1).stride() * weight.dim(d - 1).extent());
        }
        for (int d = 0; d < 4; d++)
            x.dim(d).set_min(0), y.dim(d).set_min(0);
        for (int d = 0; d < weight.dimensions(); d++)
            weight.dim(d).set_min(0);
        for (int d = 0; d < 2; d++)
            offset.dim(d).set_min(0);
        for (int d = 0; d < 3; d++)
            edge.dim(d).set_min(0);
        if (specialised()) {
            x.dim(1).set_extent(channels()), x.dim(2).set_extent(int(this->groups));
            y.dim(1).set_extent(outputs()), y.dim(2).set_extent(int(this->groups));
        }
    }
};

} // namespace qconv
