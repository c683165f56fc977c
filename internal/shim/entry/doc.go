// Package entry is where the first process of a guest begins, before Go's
// runtime does.
//
// The runtime wants the descriptors 0, 1 and 2 to be open, opens /dev/null for
// those that are not, and ends the process where there is no such file. A guest
// without a console (a kernel without serial port, or with it switched off for
// speed) starts its init without any descriptor and has an empty /dev, so that
// init would end, and the kernel with it. The code here puts the root directory
// onto every descriptor that is missing, to be closed at exec, so that the next
// program finds what the kernel gave.
//
// A program takes part by importing this package and by being linked with
// -ldflags=-E=ampoule_init_entry. There is nothing here but that code.
package entry
