// Package secret holds bytes that must not be seen: credential values on their
// way from the source to the hypervisor.
//
// A [Value] lives in memory of its own, outside the Go heap: locked against
// swapping where the system allows it, left out of core dumps, gone from a
// forked child, zeroed on [Value.Wipe]. It cannot be printed by accident: every
// formatter, encoder and logger gets "[secret]". A [Builder] composes values
// without a copy on the heap, a [Memfd] hands one to a child process on a
// descriptor, and [Harden] closes the process's own leaks.
//
// What does not belong here: where values come from, their names, limits and
// encodings (package credential), and who receives them.
//
// The package is for Linux only.
package secret
