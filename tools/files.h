// Files: whole or not at all. Everything is written beside its place and renamed when complete. Symbolic links stay and
// lead to the new file; what is there and no ordinary file (a device, a pipe) is written into.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qconv::tools {

/// Reads a whole file, or what comes through a pipe; throws InputError naming it.
std::string read_text(const std::filesystem::path &path);

class LockedFolder;
class PendingFile;

/// Files that go into place together, once all of them are complete. Functions throw EnvironmentError (unwritable, full
/// disk); what commit() did not put in place goes away with this object.
class FileSet {
public:
    FileSet();
    ~FileSet();
    FileSet(const FileSet &) = delete;
    FileSet &operator=(const FileSet &) = delete;

    /// Writes the pieces one after the other.
    void add(const std::filesystem::path &path, std::span<const std::string_view> pieces);
    void commit();

private:
    std::unique_ptr<PendingFile> pending(const std::filesystem::path &path);

    std::map<std::filesystem::path, std::unique_ptr<LockedFolder>> folders_; // beside the files' places
    std::vector<std::unique_ptr<PendingFile>> files_;
};

/// A FileSet of one.
void write_atomically(const std::filesystem::path &path, std::string_view text);

/// Moves a complete file to a name in the same file system.
void put_in_place(const std::filesystem::path &from, const std::filesystem::path &to);

/// TMPDIR, or /tmp. Throws EnvironmentError if it is no folder.
std::filesystem::path temporary_folder();

/// A folder for work in progress, made inside `parent` so that a later rename stays on one file system. It, and any
/// folder above it that had to be made, goes away with this object unless moved out by publish(). Those of processes
/// that were killed go when the next one is made beside them.
class ScratchFolder {
public:
    /// Makes `parent` and what is missing above it. Throws EnvironmentError if it cannot be made or written.
    explicit ScratchFolder(const std::filesystem::path &parent);
    ~ScratchFolder();
    ScratchFolder(const ScratchFolder &) = delete;
    ScratchFolder &operator=(const ScratchFolder &) = delete;

    const std::filesystem::path &path() const;
    /// Moves the named files into `parent`, in order, and keeps `parent`.
    void publish(const std::vector<std::string> &names);

private:
    void remove_made();

    std::filesystem::path parent_;
    std::unique_ptr<LockedFolder> folder_;
    std::vector<std::filesystem::path> made_; // folders above it made by us, outermost first
};

/// Catches SIGINT, SIGTERM and SIGHUP from now on, so that cleaning up happens; a second one ends the process at once.
/// Also has writes past a file-size limit fail with an error instead of a signal.
void catch_interrupts();
bool interrupted();
/// Throws Interrupted if a signal came.
void check_interrupt();

} // namespace qconv::tools
