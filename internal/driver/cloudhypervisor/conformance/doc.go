// Package conformance holds one table of cases for cloud-hypervisor's API and
// runs it against the stand-in always, and against the real program where
// AMPOULE_TEST_CLOUD_HYPERVISOR names one and /dev/kvm can be opened. Where they
// differ, the stand-in is wrong.
package conformance
