package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what every formatter, encoder and logger sees of a secret.
const Redacted = "[secret]"

// redacted is embedded where the bytes must stay out of sight. Its methods are
// on the value, so that pointers, copies, struct fields and map keys are all
// covered. Where a printer cannot call methods (an unexported field), it finds
// an address and a length at most: see mapping.
type redacted struct{}

// Format implements [fmt.Formatter], for all verbs.
func (redacted) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, Redacted) }

// String implements [fmt.Stringer].
func (redacted) String() string { return Redacted }

// GoString implements [fmt.GoStringer].
func (redacted) GoString() string { return Redacted }

// MarshalText implements [encoding.TextMarshaler], which XML, map keys and most
// other encoders use.
func (redacted) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalYAML is what the usual YAML packages look for.
func (redacted) MarshalYAML() (any, error) { return Redacted, nil }

// MarshalBinary implements [encoding.BinaryMarshaler].
func (redacted) MarshalBinary() ([]byte, error) { return []byte(Redacted), nil }

// GobEncode implements [encoding/gob.GobEncoder].
func (redacted) GobEncode() ([]byte, error) { return []byte(Redacted), nil }

// LogValue implements [slog.LogValuer].
func (redacted) LogValue() slog.Value { return slog.StringValue(Redacted) }
