// Package leak looks for secrets all over a machine: in the arguments and the
// environment of every process, in their open files, in every file written
// since the start on any disk, in all memory file systems, in the journal, the
// kernel's log and the names of sockets, and where the caller says so in core
// dumps, texts and the memory of a process. It knows a secret in its plain
// form and in the forms in which programs print and store bytes.
//
// It is for tests and for the demonstration; nothing that is shipped may
// import it. It judges nothing but what it finds: which places may have a
// secret is the caller's to say, with [Scanner.Allow].
//
// Secrets must be random and made at run time ([Random]): a constant of a
// program is found in the program's own file. The scanner holds the secrets in
// its memory and nowhere else; the memory of its own process is never scanned.
//
// What it cannot see: processes that came and went between two looks (see
// [Scanner.Watch]), files hidden below a mount point, raw block devices, and
// what it is not privileged to read; the last is listed in [Report.Skipped],
// so that a scan that saw little is not taken for a clean machine.
package leak
