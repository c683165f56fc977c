// Package cpio writes and reads the one archive format that Linux takes for an
// initial RAM disk: newc, and its twin with checksums.
//
// An entry is a header of 110 ASCII bytes (a magic of six, thirteen numbers of
// eight hexadecimal digits), the name with a NUL at its end, zeros to a
// multiple of four, the body, and zeros to a multiple of four. Everything
// counts from the beginning of the archive. An entry named TRAILER!!! ends the
// archive for the tools; for Linux it only ends the scope of hard links.
//
// The writer appends to the caller's memory and makes nothing of its own, so
// that an archive can be built around bytes that must not be copied. The reader
// is fed from outside and follows the steps of Linux's init/initramfs.c, which
// differ from those of the cpio tools.
//
// Compression, paths and what an archive means are not here.
package cpio
