package main

// The bounds in numbers. They are well above what a quiet machine shows, so that
// a busy one does not break them, and a mistake of design does.
const (
	// overheadLimit, in milliseconds: reading files, judging the host, sealing
	// credentials, one more process between exec and exec.
	overheadLimit = 60
	// memoryLimit, in MiB.
	memoryLimit = 20
)
