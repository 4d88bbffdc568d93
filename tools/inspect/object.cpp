#include "tools/inspect/object.h"

#include <fmt/format.h>
#include <llvm/ADT/StringExtras.h>
#include <llvm/Object/Archive.h>
#include <llvm/Object/ObjectFile.h>
#include <llvm/Object/SymbolSize.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/MemoryBuffer.h>

#include <filesystem>
#include <regex>
#include <stdexcept>

namespace qconv::inspect {
namespace {

namespace object = llvm::object;

template <class Value>
Value take(llvm::Expected<Value> value) {
    if (!value) throw std::runtime_error(llvm::toString(value.takeError()));
    return std::move(*value);
}

/// What Halide writes into each kernel's metadata: "x86-64-linux-avx-avx2-...".
std::string find_halide_target(llvm::StringRef contents) {
    static const std::regex target("(x86|arm|powerpc|hexagon|wasm|riscv)-(32|64)-[a-z0-9_]+(-[a-z0-9_]+)*");
    for (std::size_t at = 0; at < contents.size();) {
        const std::size_t end = std::min(contents.find('\0', at), contents.size());
        const llvm::StringRef text = contents.slice(at, end);
        if (text.size() < 500 && std::regex_match(text.begin(), text.end(), target)) return text.str();
        at = end + 1;
    }
    return "";
}

/// PTX texts, which begin with their version and end with a zero.
void find_device_code(llvm::StringRef contents, std::vector<std::string> &found) {
    for (std::size_t at = contents.find("\n.version "); at != contents.npos; at = contents.find("\n.version ", at)) {
        const std::size_t end = std::min(contents.find('\0', at), contents.size());
        found.push_back(contents.slice(at + 1, end).str());
        at = end;
    }
}

void read_sections(const object::ObjectFile &file, ObjectReport &read) {
    for (const object::SectionRef &section : file.sections()) {
        if (section.isBSS()) {
            read.data_bytes += section.getSize();
            continue;
        }
        if (section.isText()) {
            read.code_bytes += section.getSize();
            continue;
        }
        const std::string name = take(section.getName()).str();
        const bool constants = name.starts_with(".rodata") || name.starts_with("__TEXT") || name == "__const";
        const bool data = section.isData() && !constants && !name.starts_with(".note") && !name.starts_with(".comment");
        if (constants) read.constant_bytes += section.getSize();
        if (data) read.data_bytes += section.getSize();
        if (!constants && !data) continue;
        const llvm::StringRef contents = take(section.getContents());
        if (read.halide_target.empty()) read.halide_target = find_halide_target(contents);
        find_device_code(contents, read.device_code);
    }
}

void read_symbols(const object::ObjectFile &file, Object &read) {
    for (const auto &[symbol, size] : object::computeSymbolSizes(file)) {
        const std::string name = take(symbol.getName()).str();
        const std::uint32_t flags = take(symbol.getFlags());
        const bool undefined = flags & object::SymbolRef::SF_Undefined;
        if (undefined && !name.empty()) read.report.undefined.push_back(name);
        if (undefined || take(symbol.getType()) != object::SymbolRef::ST_Function) continue;
        if (flags & object::SymbolRef::SF_Global) read.report.defined.push_back(name);
        const auto section = take(symbol.getSection());
        if (section == file.section_end() || !section->isText()) continue;
        const llvm::StringRef contents = take(section->getContents());
        const std::uint64_t from = take(symbol.getAddress()) - section->getAddress();
        if (from > contents.size() || size > contents.size() - from)
            throw std::runtime_error(fmt::format("the symbol {} reaches beyond its section", name));
        const llvm::StringRef bytes = contents.substr(from, size);
        read.functions.push_back({name, {bytes.bytes_begin(), bytes.bytes_end()}});
    }
}

Object read_object(const object::ObjectFile &file, std::string name) {
    Object read;
    read.triple = file.makeTriple();
    read.report.name = std::move(name);
    read.report.format = file.getFileFormatName().str();
    read.report.architecture = read.triple.getArchName().str();
    read.report.file_bytes = file.getMemoryBufferRef().getBufferSize();
    read_sections(file, read.report);
    read_symbols(file, read);
    // The entry that the registry calls names the kernel.
    for (const std::string &symbol : read.report.defined)
        if (symbol.ends_with("_argv")) read.report.kernel = symbol.substr(0, symbol.size() - 5);
    return read;
}

} // namespace

void read_objects(const std::string &path, const std::function<void(Object &)> &visit) {
    auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
    if (!buffer) throw std::runtime_error(buffer.getError().message());
    const std::unique_ptr<object::Binary> binary = take(object::createBinary((*buffer)->getMemBufferRef()));
    if (const auto *file = llvm::dyn_cast<object::ObjectFile>(binary.get())) {
        Object read = read_object(*file, std::filesystem::path(path).filename());
        visit(read);
        return;
    }
    const auto *archive = llvm::dyn_cast<object::Archive>(binary.get());
    if (!archive) throw std::runtime_error("neither a static library nor an object file");
    llvm::Error error = llvm::Error::success();
    for (const object::Archive::Child &child : archive->children(error)) {
        const std::string name = take(child.getName()).str();
        const std::unique_ptr<object::Binary> member = take(child.getAsBinary());
        const auto *file = llvm::dyn_cast<object::ObjectFile>(member.get());
        if (!file) throw std::runtime_error(fmt::format("its member {} is no object file", name));
        Object read = read_object(*file, name);
        visit(read);
    }
    if (error) throw std::runtime_error(llvm::toString(std::move(error)));
}

} // namespace qconv::inspect
