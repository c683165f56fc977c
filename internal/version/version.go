// Package version says which Ampoule this is.
package version

// Version is the release, without a leading v.
const Version = "0.1.0"
