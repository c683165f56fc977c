// Package unitfile turns the bytes of a systemd unit file, or of a file with
// the same syntax, into sections and assignments with the line each came from,
// and writes such files.
//
// [Parse] sees exactly what systemd's own parser sees: the same line ends, the
// same joined lines, the same trimming, the same point at which a broken file
// is given up. What systemd only warns about, or passes over in silence, is
// reported beside the result as [Problem] and [Flaw], so that a stricter
// reader can refuse it. [SplitWords] and [Unescape] undo quoting and escapes
// in a value the way systemd's settings do; [QuoteWord] and [EscapeValue] are
// their inverses, [Format] is the inverse of Parse. The rules themselves are
// written down in docs/unit-syntax.md and are tested against a running systemd
// in test/systemd.
//
// The package knows syntax only. It knows no section and no key, expands no
// specifier and no variable, orders no layers, opens no file and prints
// nothing. Nothing it returns as an error repeats a value.
package unitfile
