// Package conformance holds the stand-in for Firecracker and the real program
// to the same expectations: one table of requests, with what comes back.
//
// The stand-in is always asked. The real program is where
// $AMPOULE_TEST_FIRECRACKER names its binary and /dev/kvm can be opened. Where
// the two differ, the stand-in is wrong.
package conformance
