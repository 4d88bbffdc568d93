// LLVM's description of one architecture: decoding, printing and parsing of its instructions.
#pragma once

#include <llvm/MC/MCAsmInfo.h>
#include <llvm/MC/MCContext.h>
#include <llvm/MC/MCDisassembler/MCDisassembler.h>
#include <llvm/MC/MCInst.h>
#include <llvm/MC/MCInstPrinter.h>
#include <llvm/MC/MCInstrAnalysis.h>
#include <llvm/MC/MCInstrInfo.h>
#include <llvm/MC/MCRegisterInfo.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/MCTargetOptions.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/TargetParser/Triple.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qconv::inspect {

/// One instruction of a function.
struct Instruction {
    std::uint64_t address = 0; // from the start of its function
    llvm::MCInst code;
    std::string mnemonic, operands; // as the disassembler prints them
    int vector_bits = 0;            // of the widest vector register named; 0 for none
    std::int64_t target = -1;       // of a direct branch: an address in the function
    bool stores = false, calls = false;
};

/// Everything is of one triple. Decoding accepts every extension of the architecture, whatever CPU has it.
class Machine {
public:
    /// Throws std::runtime_error if this LLVM does not know the triple.
    explicit Machine(const llvm::Triple &triple);

    /// The instructions of one function's bytes. What does not decode is left out, byte by byte (x86) or word by word.
    std::vector<Instruction> decode(llvm::ArrayRef<std::uint8_t> bytes) const;
    /// The instructions of assembly text. Throws std::runtime_error with the parser's words.
    std::vector<llvm::MCInst> parse(const std::string &text) const;

    /// What a CPU is like, with its scheduling model. Throws std::runtime_error that names the nearest known CPU, or
    /// says that LLVM has no model of it.
    std::unique_ptr<llvm::MCSubtargetInfo> subtarget(const std::string &cpu) const;

    const llvm::Target &target() const { return *target_; }
    const llvm::Triple &triple() const { return triple_; }
    const llvm::MCRegisterInfo &registers() const { return *registers_; }
    const llvm::MCInstrInfo &instructions() const { return *instructions_; }
    const llvm::MCInstrAnalysis *analysis() const { return analysis_.get(); }

private:
    std::string print(const llvm::MCInst &instruction, std::uint64_t address) const;

    llvm::Triple triple_;
    llvm::MCTargetOptions options_;
    const llvm::Target *target_ = nullptr;
    std::unique_ptr<llvm::MCRegisterInfo> registers_;
    std::unique_ptr<llvm::MCAsmInfo> assembly_;
    std::unique_ptr<llvm::MCInstrInfo> instructions_;
    std::unique_ptr<llvm::MCInstrAnalysis> analysis_;
    std::unique_ptr<llvm::MCSubtargetInfo> everything_; // all extensions
    std::unique_ptr<llvm::MCContext> context_;
    std::unique_ptr<llvm::MCDisassembler> disassembler_;
    std::unique_ptr<llvm::MCInstPrinter> printer_;
};

/// Bits of the widest vector register that operands in AT&T or ARM syntax name; 0 if there is none.
int vector_bits(const llvm::Triple &triple, std::string_view operands);

} // namespace qconv::inspect
