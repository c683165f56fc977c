// Package systemd holds the tests that need a running systemd: what our
// parser and writer say about a unit file is compared with what PID 1 made of
// the same bytes.
//
// The systemd under test is Debian's, booted by systemd-nspawn in a root that
// mmdebstrap builds once and that stays in the cache. There is nothing here
// but tests, and nothing that would run outside such a root.
package systemd
