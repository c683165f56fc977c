// Package rule holds what can be said about credentials without touching one:
// which names and globs are valid, how large they may be, and how many bytes
// they take on each channel into a guest.
//
// It is pure and uses the standard library alone, so that the generator, the
// drivers and the checks can import it. Values, files, sockets and memory
// belong in package credential.
package rule
