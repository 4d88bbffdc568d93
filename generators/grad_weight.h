// What the grad_weight generators share: inputs, shape facts, the input's values, the factor of the result. Formulas in
// layout.h.
#pragma once

#include "Halide.h"
#include "convolution.h"
#include "qconv/layout.h"
#include "quantizers.h"
#include "schedules/schedule.h"

namespace qconv {

/// Base of the grad_weight generators. The inputs are those of GradWeightArg, in its order.
template <class Self>
class GradWeightGenerator : public ConvolutionGenerator<Self> {
    using Base = ConvolutionGenerator<Self>;

protected:
    using typename Base::Expr;
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;
    using Base::constant_or, Base::c, Base::g, Base::group_size, Base::n, Base::o, Base::p, Base::specialised;

public:
    Input<Halide::Buffer<float, 4>> grad_output{"grad_output"};
    Input<Halide::Buffer<float, 4>> x{"x"};
    Input<Halide::Buffer<uint32_t, 5>> state{"state"};
    Input<Halide::Buffer<float, 4>> factor{"factor"};
    Input<int32_t> kernel_size_in{"kernel_size_in", 1, 1, 1 << 30};
    Input<int32_t> stride_in{"stride_in", 1, 1, 1 << 30};
    Input<int32_t> dilation_in{"dilation_in", 1, 1, 1 << 30};
    Input<int32_t> pad_left{"pad_left"};
    Input<int32_t> tile_width{"tile_width"};
    Input<int32_t> tile_channels{"tile_channels"};
    Input<int32_t> edge_left{"edge_left"};
    Input<int32_t> edge_right{"edge_right"};
    Input<float> pad_delta{"pad_delta"};
    Input<float> pad_value{"pad_value"};
    Input<int32_t> source{"source"};
    Input<int32_t> quantizer{"quantizer"};
    Input<float> levels{"levels"};
    Input<float> divisor{"divisor"};
    Input<int32_t> next{"next"};
    Input<float> next_levels{"next_levels"};
    Input<float> next_divisor{"next_divisor"};
    Input<float> mix{"mix"};
    Input<int32_t> has_factor{"has_factor"};
    Output<Halide::Buffer<float, 4>> grad_weight{"grad_weight"};

protected:
    Halide::Var k{"k"};              ///< tap
    Halide::Var i{"i"};              ///< position of x
    schedules::InputValues prepared; ///< of input_values(), if that is called

    /// Whether the rows of factor and grad_weight are one dimension, of channels and their taps, and the next is 1.
    virtual bool joins_taps() const { return false; }

    Expr channels() const { return group_size(this->in_channels, x.dim(1).extent()); }
    Expr outputs() const { return group_size(this->out_channels, grad_weight.dim(2).extent()); }
    Expr kernel_size() const { return constant_or(this->kernel_taps, kernel_size_in); }
    Expr dilation() const { return constant_or(this->dilation_by, dilation_in); }
    Expr stride() const override { return this->is_unit_stride() ? Expr(1) : constant_or(this->stride_by, stride_in); }
    Expr width() const { return x.dim(0).extent(); }
    Expr width_out() const { return grad_output.dim(0).extent(); }
    Expr batch() const { return grad_output.dim(3).extent(); }
    Expr tiles() const { return (width_out() + tile_width - 1) / tile_width; }

    Expr inside(const Expr &at) const { return at >= pad_left && at < pad_left + width(); }
    /// The position of x nearest to padded position `at`.
    Expr position(const Expr &at) const { return position(at, width() - 1); }
    Expr position(const Expr &at, const Expr &last) const { return position_of_x(at - pad_left, last); }
    static Expr position_of_x(const Expr &at, const Expr &last) { return Halide::clamp(Halide::likely(at), 0, last); }

    /// gy with its tail filled up by zeros, so that whole blocks of positions and outputs may be summed.
    Expr gradient(const Expr &at, const Expr &output) const {
        const Expr known = Halide::likely(at < width_out()) && Halide::likely(output < outputs());
        return Halide::select(known,
                              grad_output(Halide::clamp(Halide::likely(at), 0, width_out() - 1),
                                          Halide::clamp(Halide::likely(output), 0, outputs() - 1), g, n),
                              0.0f);
    }

    /// Bit of plane `plane` of the state at position `at`.
    Expr state_bit(const Expr &at, const Expr &plane, const Expr &channel) const {
        const Expr word = state(Halide::clamp(at / 32, 0, this->last_index(state.dim(0).extent(), from_state())), plane,
                                channel, g, n);
        return (word >> Halide::cast<uint32_t>(at % 32)) & 1u;
    }
    /// The level that the state has at position `at`: its planes put together, as many as there are.
    Expr state_level(const Expr &at, const Expr &channel) const {
        constexpr int most_bits = 8;
        const Expr planes = state.dim(1).extent() - 1;
        Expr level = Halide::cast<uint32_t>(0);
        for (int plane = most_bits - 1; plane > 0; plane--) {
            const Expr bit = state_bit(at, Halide::min(plane, planes), channel) << plane;
            level = quantizers::choose(plane < planes, bit | level, Halide::cast<uint32_t>(0));
        }
        return state_bit(at, 0, channel) | level;
    }

    /// values(i, c, g, n): the input's value at position i of x; not of inputs that are_values().
    Halide::Func input_values() {
        const Expr at = position_of_x(i, width() - 1), v = x(position_of_x(i, last_of_x()), c, g, n);
        const quantizers::InputQuantizer by{quantizer, levels, divisor, next, next_levels, next_divisor, mix};
        const std::vector<Halide::Var> args{i, c, g, n};
        const Expr from_x = by.quantize(v, args, prepared.values_kinds);
        Halide::Func values("values");
        values(args) =
            quantizers::choose(from_state(), quantizers::level_value(quantizer, state_level(at, c), levels), from_x);
        prepared.values = values;
        prepared.values_cases = {from_state(), mix == 0.0f};
        prepared.padded_cases = {are_values()};
        return values;
    }
    /// Whether x itself has the values.
    Expr are_values() const { return source == int(Surrogate::One); }

    /// The input of the float paths, padded, at padded position p; 0 past the last channel.
    Halide::Func padded_values(const Halide::Func &values) const {
        using Halide::select;
        const Expr channel = Halide::min(c, channels() - 1);
        const Expr value = quantizers::choose(are_values(), x(position(p, last_of_x()), channel, g, n),
                                              values(position(p), channel, g, n));
        Halide::Func padded("padded");
        padded(p, c, g, n) = select(c < channels(), select(Halide::likely(inside(p)), value, pad_value), 0.0f);
        return padded;
    }
    /// What the result at weight (at, c, o, g) is multiplied by.
    Expr factor_of(const Halide::Var &at) const { return Halide::select(has_no_factor(), 1.0f, factor(at, c, o, g)); }
    /// Fills the part of a schedule's stages that every form has.
    void fill(schedules::GradWeightStages &stages) const {
        stages.grad_weight = grad_weight;
        stages.k = k, stages.c = c, stages.o = o, stages.g = g, stages.n = n, stages.p = p, stages.w = this->w;
        stages.tile_channels = tile_channels, stages.out_block = this->out_block;
        stages.cases = {has_no_factor()};
        stages.prepared = prepared;
    }

    std::vector<Expr> weight_extents() const {
        if (joins_taps()) return {channels() * kernel_size(), 1, outputs(), int(this->groups)};
        return {kernel_size(), channels(), outputs(), int(this->groups)};
    }

    Expr from_state() const { return source == int(Surrogate::FromState); }
    Expr has_no_factor() const { return has_factor == 0; }
    /// The last position of an x that the call may lack.
    Expr last_of_x() const { return this->last_index(width(), !from_state()); }

    /// Estimates for an autoscheduler, of a call whose tile is `tile` positions.
    void estimate_call(int tile) {
        const int out = this->width_out_estimate, images = this->batch_estimate, group_count = this->groups;
        const int in = this->width_estimate, channels_of_group = this->group_channels();
        const int taps = this->kernel_taps, row = joins_taps() ? taps * channels_of_group : taps;
        const std::vector<int> weights{row, joins_taps() ? 1 : channels_of_group, this->group_outputs(), group_count};
        this->estimate_buffer(grad_output, {out, this->group_outputs(), group_count, images});
        this->estimate_buffer(x, {in, channels_of_group, group_count, images});
        this->estimate_buffer(state, {int(state_words(in)), 2, channels_of_group, group_count, images});
        this->estimate_buffer(factor, weights);
        this->estimate_buffer(grad_weight, weights);
        kernel_size_in.set_estimate(taps);
        stride_in.set_estimate(int(this->stride_by));
        dilation_in.set_estimate(int(this->dilation_by));
        tile_width.set_estimate(tile);
        tile_channels.set_estimate(channels_of_group);
        edge_left.set_estimate(1);
        edge_right.set_estimate(out - 1);
        pad_left.set_estimate(0);
        this->estimate_switches({&source, &quantizer, &next, &has_factor}, 1);
        this->estimate_scalars({&mix}, 0.0f);
        this->estimate_scalars({&pad_delta, &pad_value, &levels, &divisor, &next_levels, &next_divisor}, 1.0f);
    }
    /// The widest whole tile within an estimated row.
    int estimated_tile() const { return this->blocks(this->width_out_estimate, this->width_block) * this->width_block; }

    void describe_buffers() {
        this->describe_tensor(grad_output, 1, this->out_channels);
        this->describe_tensor(x, 1, this->in_channels);
        this->describe_tensor(state, 2, this->in_channels);
        for (int d = 0; d < 4; d++)
            factor.dim(d).set_min(0), grad_weight.dim(d).set_min(0);
        if (joins_taps()) factor.dim(1).set_extent(1), grad_weight.dim(1).set_extent(1);
        if (specialised()) {
            const std::vector<Expr> extents = weight_extents();
            for (int d = 0; d < 4; d++)
                factor.dim(d).set_extent(extents[d]), grad_weight.dim(d).set_extent(extents[d]);
        }
        for (int d = 1; d < 4; d++) { // dense
            grad_weight.dim(d).set_stride(grad_weight.dim(d - 1).stride() * grad_weight.dim(d - 1).extent());
        }
    }
};

} // namespace qconv
