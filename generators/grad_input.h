// What the grad_input generators share: inputs, shape facts, the zero-padded gradient, the factor of the
// straight-through estimator, and the result. Formulas in layout.h.
#pragma once

#include "Halide.h"
#include "convolution.h"
#include "qconv/layout.h"
#include "quantizers.h"
#include "schedules/schedule.h"

namespace qconv {

/// Base of the grad_input generators. The inputs are those of GradInputArg, in its order.
template <class Self, class Weight>
class GradInputGenerator : public ConvolutionGenerator<Self> {
    using Base = ConvolutionGenerator<Self>;

protected:
    using typename Base::Expr;
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;
    using Base::c, Base::g, Base::n, Base::o, Base::p;

public:
    Input<Halide::Buffer<float, 4>> grad_output{"grad_output"};
    Input<Weight> weight{"weight"};
    Input<Halide::Buffer<int32_t, 1>> tap_shift{"tap_shift"};
    Input<Halide::Buffer<int32_t, 1>> phase_start{"phase_start"};
    Input<Halide::Buffer<float, 4>> x{"x"};
    Input<Halide::Buffer<uint32_t, 5>> state{"state"};
    Input<int32_t> stride_in{"stride_in", 1, 1, 1 << 30};
    Input<int32_t> tile_width{"tile_width"};
    Input<int32_t> shift_min{"shift_min"};
    Input<int32_t> shift_max{"shift_max"};
    Input<int32_t> factor_kind{"factor"};
    Input<float> threshold{"threshold"};
    Input<int32_t> quantizer{"quantizer"};
    Input<float> beta{"beta"};
    Input<int32_t> next{"next"};
    Input<float> next_beta{"next_beta"};
    Input<float> mix{"mix"};
    Output<Halide::Buffer<float, 5>> grad_input{"grad_input"};

protected:
    /// Column and phase of a position of x, i = column * stride + phase; position of x.
    Halide::Var column{"column"}, phase{"phase"}, i{"i"};
    Halide::Func passes{"passes"}, factor{"factor_of"};
    Halide::RDom result; ///< phases, columns; with a warp tiles_of_warps() and phases; else with unit stride undefined

    Expr channels() const { return this->group_size(this->in_channels, grad_input.dim(2).extent()); }
    Expr outputs() const { return this->group_size(this->out_channels, grad_output.dim(1).extent()); }
    Expr kernel_size() const { return this->constant_or(this->kernel_taps, tap_shift.dim(0).extent()); }
    Expr stride() const override {
        return this->is_unit_stride() ? Expr(1) : this->constant_or(this->stride_by, stride_in);
    }
    Expr width() const { return x.dim(0).extent(); }

    /// padded(p, o, g, n): gy, and 0 past both of its ends and past the last output channel.
    Halide::Func padded_gradient() {
        using namespace Halide;
        Func padded("padded");
        const Expr last = grad_output.dim(0).extent() - 1;
        const Expr gradient = grad_output(clamp(likely(p), 0, last), min(o, outputs() - 1), g, n);
        padded(p, o, g, n) = select(likely(p >= 0) && likely(p <= last) && o < outputs(), gradient, 0.0f);
        return padded;
    }

    /// Position in gy of tap t for column `at`. With unit stride the shifts fall evenly, which saves a load.
    Expr reach(const Expr &at, const Expr &t) {
        if (!this->is_unit_stride()) return at + Halide::unsafe_promise_clamped(tap_shift(t), shift_min, shift_max);
        const Expr dilation = (shift_max - shift_min) / Halide::max(kernel_size() - 1, 1);
        return at + shift_min + (kernel_size() - 1 - t) * dilation;
    }
    /// Restricts the reduction `t` over all taps to those of this phase.
    void keep_phase(Halide::RDom &taps, const Halide::RVar &t) {
        if (this->is_unit_stride()) return;
        taps.where(t >= phase_start(phase) && t < phase_start(phase + 1));
    }

    /// grad_input(phase, column, c, g, n) = factor * acc(column, phase, c, g, n).
    void define_result(const Halide::Func &acc) {
        using namespace Halide;
        define_factor();
        if (this->is_unit_stride() && this->warp == 1) {
            grad_input(phase, column, c, g, n) = factor(column, phase, c, g, n) * acc(column, phase, c, g, n);
            return;
        }
        // The last column may lack phases, the last warp columns.
        const Expr columns = (width() + stride() - 1) / stride();
        Expr at, of_phase;
        std::vector<Expr> sums;
        if (this->warp > 1) {
            result = this->tiles_of_warps(columns, {{0, stride()}});
            const Expr warps = this->warp_number(result.x, result.z);
            at = warps * this->warp + result.y, of_phase = result.w;
            sums = {result.y, warps};
        } else {
            result = RDom(0, stride(), 0, columns, "result");
            at = result.y, of_phase = result.x;
            sums = {at};
        }
        for (const Expr &coordinate : std::initializer_list<Expr>{of_phase, c, g, n})
            sums.push_back(coordinate);
        const Expr last = at * stride() + of_phase;
        result.where(likely(this->warp > 1 ? this->before(last, width()) : last < width()));
        grad_input(phase, column, c, g, n) = undef<float>();
        // The limit says that no column beyond is asked for.
        const Expr to = this->warp > 1 ? min(at, columns - 1) : at;
        grad_input(of_phase, to, c, g, n) = factor(at, of_phase, c, g, n) * acc(sums);
    }

    /// Fills the part of a schedule's stages that both paths have.
    void fill(schedules::GradInputStages &stages, const Halide::Func &padded) const {
        stages.grad_input = grad_input;
        stages.i = i, stages.c = c, stages.g = g, stages.n = n, stages.p = p, stages.o = o;
        stages.column = column, stages.phase = phase;
        stages.unit_stride = this->is_unit_stride() && this->warp == 1;
        if (this->warp > 1) {
            stages.strip = result.x, stages.thread = result.y, stages.tile = result.z, stages.result_phase = result.w;
        } else if (!stages.unit_stride) {
            stages.result_phase = result.x, stages.result_column = result.y;
        }
        stages.tile_width = tile_width, stages.width_block = this->width_block;
        stages.warp = this->warp, stages.in_warp = this->in_warp;
        stages.padded = padded, stages.passes = passes, stages.factor = factor;
        stages.passes_cases = {from_state()};
        stages.factor_cases = {factor_kind == int(Surrogate::One), from_state(), factor_kind == int(Surrogate::Within),
                               mix == 0.0f};
        stages.factor_kinds = derivatives;
    }

    /// Estimates for an autoscheduler; `weight_extents` are those of the packed weights.
    void estimate_call(const std::vector<int> &weight_extents) {
        const int out = this->width_out_estimate, images = this->batch_estimate, group_count = this->groups;
        const int in = this->width_estimate, step = this->stride_by;
        const int reach = this->blocks(int64_t{this->dilation_by.value()} * (this->kernel_taps - 1), step);
        this->estimate_buffer(grad_output, {out, this->group_outputs(), group_count, images});
        this->estimate_buffer(weight, weight_extents);
        this->estimate_buffer(tap_shift, {this->kernel_taps});
        this->estimate_buffer(phase_start, {step + 1});
        this->estimate_buffer(x, {in, this->group_channels(), group_count, images});
        this->estimate_buffer(state,
                              {int(state_words(in)), state_planes(1), this->group_channels(), group_count, images});
        const int columns = this->blocks(in, step);
        this->estimate_buffer(grad_input, {step, columns, this->group_channels(), group_count, images});
        stride_in.set_estimate(step);
        tile_width.set_estimate(columns);
        shift_min.set_estimate(-reach);
        shift_max.set_estimate(0);
        this->estimate_switches({&factor_kind, &quantizer, &next}, 1);
        this->estimate_scalars({&mix}, 0.0f);
        this->estimate_scalars({&threshold, &beta, &next_beta}, 1.0f);
    }

    void describe_buffers() {
        this->describe_tensor(grad_output, 1, this->out_channels);
        this->describe_tensor(x, 1, this->in_channels);
        this->describe_tensor(grad_input, 2, this->in_channels);
        grad_input.dim(0).set_extent(stride());
        if (this->is_unit_stride()) grad_input.dim(1).set_stride(1);
        this->describe_tensor(state, 2, this->in_channels);
        tap_shift.dim(0).set_min(0), phase_start.dim(0).set_min(0);
        for (int d = 0; d < weight.dimensions(); d++)
            weight.dim(d).set_min(0);
        for (int d = 1; d < weight.dimensions(); d++)
            weight.dim(d).set_stride(weight.dim(d - 1).stride() * weight.dim(d - 1).extent());
    }

private:
    Expr from_state() const { return factor_kind == int(Surrogate::FromState); }
    std::vector<quantizers::KindStage> derivatives; ///< by either quantizer

    /// passes(i, ...): with unit stride, the state's mask in bytes. factor(column, phase, ...): see Surrogate.
    void define_factor() {
        using namespace Halide;
        const Expr mask_plane = state.dim(1).extent() - 1;
        const auto mask = [&](const Expr &at) {
            const Expr word =
                state(clamp(at / 32, 0, this->last_index(state.dim(0).extent(), from_state())), mask_plane, c, g, n);
            return (word >> cast<uint32_t>(at % 32)) & 1u;
        };
        passes(i, c, g, n) = select(from_state(), cast<uint8_t>(mask(i)), cast<uint8_t>(0));

        const Expr at = column * stride() + phase;
        const Expr bit = this->is_unit_stride() ? cast<uint32_t>(passes(column, c, g, n)) : mask(at);
        const Expr has_x = factor_kind == int(Surrogate::Within) || factor_kind == int(Surrogate::FromInput);
        const Expr v = x(clamp(likely(at), 0, this->last_index(width(), has_x)), c, g, n);
        const std::vector<Var> args{column, phase, c, g, n};
        derivatives = {quantizers::gradient("first", args, quantizer, v, beta),
                       quantizers::gradient("second", args, next, v, next_beta)};
        const std::vector<Expr> here(args.begin(), args.end());
        const Expr derivative = quantizers::mixed(mix, derivatives[0].stage(here), derivatives[1].stage(here));
        const Expr unlimited = strict_float(threshold != threshold); // NaN: no threshold
        const Expr within = unlimited || quantizers::at_most(abs(v), threshold);
        using quantizers::choose;
        // By bits: of a select, Halide would take the condition for one of the stage's, and reckon with a threshold of
        // NaN as if there were none.
        const Expr kept = reinterpret<uint32_t>(derivative) & select(within, UInt(32).max(), cast<uint32_t>(0));
        const Expr of_input =
            choose(factor_kind == int(Surrogate::Within), select(within, 1.0f, 0.0f), reinterpret<float>(kept));
        factor(args) = choose(factor_kind == int(Surrogate::One), 1.0f,
                              choose(from_state(), cast<float>(cast<int32_t>(bit)), of_input));
    }
};

} // namespace qconv
