#include "tools/inspect/machine.h"

#include <fmt/format.h>
#include <llvm/ADT/STLExtras.h>
#include <llvm/MC/MCObjectFileInfo.h>
#include <llvm/MC/MCParser/MCAsmParser.h>
#include <llvm/MC/MCParser/MCTargetAsmParser.h>
#include <llvm/MC/MCStreamer.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>

#include <cctype>
#include <stdexcept>

namespace qconv::inspect {
namespace {

void register_targets() {
    static const bool once = [] {
        llvm::InitializeAllTargetInfos();
        llvm::InitializeAllTargetMCs();
        llvm::InitializeAllAsmParsers();
        llvm::InitializeAllDisassemblers();
        llvm::InitializeAllTargetMCAs();
        return true;
    }();
    static_cast<void>(once);
}

/// The extensions that the disassembler and the parser must be told of.
const char *all_extensions(const llvm::Triple &triple) {
    if (triple.isX86()) {
        return "+avx2,+fma,+f16c,+popcnt,+evex512,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,+avx512bitalg,"
               "+avx512vpopcntdq,+avx512vbmi,+avx512bf16";
    }
    if (triple.isAArch64()) return "+all";
    if (triple.isARM()) return "+v8.2a,+neon,+fp-armv8,+fullfp16,+dotprod,+i8mm,+bf16";
    return "";
}

/// Keeps the instructions and drops all else.
class Collector : public llvm::MCStreamer {
public:
    explicit Collector(llvm::MCContext &context) : MCStreamer(context) {}

    void emitInstruction(const llvm::MCInst &instruction, const llvm::MCSubtargetInfo &) override {
        collected.push_back(instruction);
    }
    bool emitSymbolAttribute(llvm::MCSymbol *, llvm::MCSymbolAttr) override { return true; }
    void emitCommonSymbol(llvm::MCSymbol *, std::uint64_t, llvm::Align) override {}

    std::vector<llvm::MCInst> collected;
};

} // namespace

int vector_bits(const llvm::Triple &triple, std::string_view operands) {
    int widest = 0;
    const bool x86 = triple.isX86();
    for (std::size_t i = 0; i + 1 < operands.size(); i++) {
        const bool starts = i == 0 || !std::isalnum(static_cast<unsigned char>(operands[i - 1]));
        if (!starts) continue;
        const std::string_view rest = operands.substr(i);
        if (x86) {
            for (const auto &[name, bits] : {std::pair{"zmm", 512}, {"ymm", 256}, {"xmm", 128}})
                if (rest.starts_with(name)) widest = std::max(widest, bits);
            continue;
        }
        if (!std::isdigit(static_cast<unsigned char>(rest[1]))) continue;
        // v3.16b and q3 are 128 bits; v3.8b and ARM's d3 are 64; the length of z3 is the CPU's, at least 128.
        if (rest[0] == 'q' || rest[0] == 'z') widest = std::max(widest, 128);
        if (rest[0] == 'd' && triple.isARM()) widest = std::max(widest, 64);
        if (rest[0] == 'v') {
            const std::size_t dot = rest.find('.');
            const bool half =
                dot != rest.npos && (rest.substr(dot).starts_with(".8b") || rest.substr(dot).starts_with(".4h") ||
                                     rest.substr(dot).starts_with(".2s"));
            widest = std::max(widest, half ? 64 : 128);
        }
    }
    return widest;
}

Machine::Machine(const llvm::Triple &triple) : triple_(triple) {
    register_targets();
    std::string error;
    target_ = llvm::TargetRegistry::lookupTarget(triple_, error);
    if (!target_) throw std::runtime_error(error);
    registers_.reset(target_->createMCRegInfo(triple_));
    assembly_.reset(target_->createMCAsmInfo(*registers_, triple_, options_));
    instructions_.reset(target_->createMCInstrInfo());
    analysis_.reset(target_->createMCInstrAnalysis(instructions_.get()));
    everything_.reset(target_->createMCSubtargetInfo(triple_, "", all_extensions(triple_)));
    context_ = std::make_unique<llvm::MCContext>(triple_, assembly_.get(), registers_.get(), everything_.get());
    disassembler_.reset(target_->createMCDisassembler(*everything_, *context_));
    printer_.reset(target_->createMCInstPrinter(triple_, assembly_->getAssemblerDialect(), *assembly_, *instructions_,
                                                *registers_));
    if (!disassembler_ || !printer_) {
        throw std::runtime_error(fmt::format("this LLVM has no disassembler for {}", triple_.str()));
    }
    printer_->setPrintImmHex(false);
}

std::string Machine::print(const llvm::MCInst &instruction, std::uint64_t address) const {
    std::string text;
    llvm::raw_string_ostream stream(text);
    printer_->printInst(&instruction, address, "", *everything_, stream);
    return text;
}

std::vector<Instruction> Machine::decode(llvm::ArrayRef<std::uint8_t> bytes) const {
    std::vector<Instruction> decoded;
    const std::uint64_t least = triple_.isX86() ? 1 : 4;
    for (std::uint64_t at = 0, size = 0; at < bytes.size(); at += std::max(size, least)) {
        Instruction instruction;
        instruction.address = at;
        size = 0;
        const auto status = disassembler_->getInstruction(instruction.code, size, bytes.slice(at), at, llvm::nulls());
        if (status == llvm::MCDisassembler::Fail) continue;
        const std::string text = llvm::StringRef(print(instruction.code, at)).trim().str();
        const std::size_t space = text.find_first_of(" \t");
        instruction.mnemonic = text.substr(0, space);
        if (space != text.npos) instruction.operands = llvm::StringRef(text).substr(space).trim().str();
        instruction.vector_bits = vector_bits(triple_, instruction.operands);
        const llvm::MCInstrDesc &description = instructions_->get(instruction.code.getOpcode());
        instruction.stores = description.mayStore();
        instruction.calls = description.isCall();
        std::uint64_t target = 0;
        if (analysis_ && analysis_->isBranch(instruction.code) &&
            analysis_->evaluateBranch(instruction.code, at, size, target)) {
            instruction.target = static_cast<std::int64_t>(target);
        }
        decoded.push_back(std::move(instruction));
    }
    return decoded;
}

std::vector<llvm::MCInst> Machine::parse(const std::string &text) const {
    llvm::SourceMgr sources;
    sources.AddNewSourceBuffer(llvm::MemoryBuffer::getMemBuffer(text), llvm::SMLoc());
    std::string complaint;
    sources.setDiagHandler([](const llvm::SMDiagnostic &diagnostic,
                              void *to) { *static_cast<std::string *>(to) = diagnostic.getMessage().str(); },
                           &complaint);
    llvm::MCContext context(triple_, assembly_.get(), registers_.get(), everything_.get(), &sources);
    const std::unique_ptr<llvm::MCObjectFileInfo> sections(target_->createMCObjectFileInfo(context, false));
    context.setObjectFileInfo(sections.get());
    Collector collector(context);
    const std::unique_ptr<llvm::MCAsmParser> parser(llvm::createMCAsmParser(sources, context, collector, *assembly_));
    const std::unique_ptr<llvm::MCTargetAsmParser> of_target(
        target_->createMCAsmParser(*everything_, *parser, *instructions_, options_));
    parser->setTargetParser(*of_target);
    // Some targets' parsers talk to a streamer of their own.
    target_->createNullTargetStreamer(collector);
    if (parser->Run(/*NoInitialTextSection=*/false))
        throw std::runtime_error(fmt::format("the ideal loop does not assemble: {}", complaint));
    return collector.collected;
}

std::unique_ptr<llvm::MCSubtargetInfo> Machine::subtarget(const std::string &cpu) const {
    if (!everything_->isCPUStringValid(cpu)) {
        std::string nearest;
        unsigned least = ~0U;
        for (const llvm::SubtargetSubTypeKV &known : everything_->getAllProcessorDescriptions()) {
            const llvm::StringRef name(known.Key);
            if (const unsigned distance = name.edit_distance(cpu); distance < least) least = distance, nearest = name;
        }
        throw std::runtime_error(fmt::format(
            "--cpu '{}': LLVM knows no such {} CPU; the nearest name is '{}' (all: llvm-mc --triple={} --mcpu=help)",
            cpu, triple_.getArchName().str(), nearest, triple_.str()));
    }
    std::unique_ptr<llvm::MCSubtargetInfo> info(target_->createMCSubtargetInfo(triple_, cpu, ""));
    if (!info->getSchedModel().hasInstrSchedModel()) {
        throw std::runtime_error(
            fmt::format("--cpu '{}': LLVM has no scheduling model of it, so nothing to simulate "
                        "with; name a CPU that has one, for instance {}",
                        cpu,
                        triple_.isX86()       ? "znver4 or skylake-avx512"
                        : triple_.isAArch64() ? "neoverse-n1 or neoverse-v1"
                                              : "cortex-a57"));
    }
    return info;
}

} // namespace qconv::inspect
