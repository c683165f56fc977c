package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The protocols of Control.
const (
	// QMP is a socket pair with JSON in both directions.
	QMP = "qmp"
	// HTTP is a socket on which the hypervisor listens, and VM.API what it is
	// asked there.
	HTTP = "http"
)

// API is a VM of which its hypervisor is told by requests over HTTP, and not by
// words of its command line.
type API struct {
	// Alive is asked until the hypervisor answers for the first time, and later
	// as a sign of life.
	Alive Request `json:"alive"`
	// Version is where in the answer the hypervisor's version stands, a JSON
	// pointer, and Oldest the first that will do.
	Version string `json:"version,omitempty"`
	Oldest  string `json:"oldest,omitempty"`
	// Start are made in this order; after the last the guest runs.
	Start []Request `json:"start"`
	// Power presses the power button; nil where the hypervisor has none.
	Power *Request `json:"power,omitempty"`
	// Events say what happens to the guest, where the hypervisor writes a stream
	// of JSON objects whose members "source" and "event" tell.
	Events []Event `json:"events,omitempty"`
	// Halted is a regular expression for a line on the console behind which
	// nothing more comes, where the hypervisor does not learn of it.
	Halted string `json:"halted,omitempty"`
}

// Request is a request and the JSON object in its body.
type Request struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Body are the members of the object, however deep; without any there is no
	// body.
	Body []Field `json:"body,omitempty"`
	// Ask is AskNetwork where the descriptors of an interface go with the request,
	// and From its line; else both are empty.
	Ask  Question `json:"ask,omitempty"`
	From string   `json:"from,omitempty"`
}

// Field is a value in the body of a request, or waits for one. A question to
// which the answer is nothing leaves the field out.
type Field struct {
	// At is the place, a JSON pointer (RFC 6901): /disks/0/path.
	At string `json:"at"`
	// Value is a text, or what Type says.
	Value string   `json:"value,omitempty"`
	Type  Type     `json:"type,omitempty"`
	Ask   Question `json:"ask,omitempty"`
	// From names the assignment behind the field, as that of a Part.
	From string `json:"from,omitempty"`
}

// String shows a request to people, without its body; what goes with it in braces.
func (r *Request) String() string {
	if r.Ask != "" {
		return r.Method + " " + r.Path + " {" + string(r.Ask) + "}"
	}
	return r.Method + " " + r.Path
}

// String shows a field to people: PLACE=VALUE, a question in braces.
func (f *Field) String() string {
	switch {
	case f.Ask != "":
		return f.At + "={" + string(f.Ask) + "}"
	case f.Type == Object && f.At == "":
		return "{}"
	case f.Type == Object:
		return f.At + "={}"
	}
	return f.At + "=" + f.Value
}

// Type is what a field's value is in JSON; empty for a text.
type Type string

// The types.
const (
	Number  Type = "number"
	Boolean Type = "boolean"
	// Object is one without members; its value is empty. At no place it is the
	// body itself.
	Object Type = "object"
)

// Meaning is what an event is to whoever runs a VM.
type Meaning string

// The meanings.
const (
	// Rebooting: the hypervisor is about to start the guest again by itself;
	// Resumed: the guest runs again.
	Rebooting  Meaning = "rebooting"
	Resumed    Meaning = "resumed"
	Panicked   Meaning = "panicked"
	PoweredOff Meaning = "powered off"
)

// Event is a word of the hypervisor's with its meaning.
type Event struct {
	Source string  `json:"source"`
	Event  string  `json:"event"`
	Means  Meaning `json:"means"`
}

// TextAt is a field with a text; from names the assignment behind it, as with the
// others.
func TextAt(at, value, from string) Field { return Field{At: at, Value: value, From: from} }

// NumberAt is a field with a number.
func NumberAt(at string, n int64, from string) Field {
	return Field{At: at, Value: strconv.FormatInt(n, 10), Type: Number, From: from}
}

// TrueAt is a field that is true.
func TrueAt(at, from string) Field { return Field{At: at, Value: "true", Type: Boolean, From: from} }

// FalseAt is a field that is false.
func FalseAt(at, from string) Field { return Field{At: at, Value: "false", Type: Boolean, From: from} }

// Empty is a body without members.
func Empty() Field { return Field{Type: Object} }

// AskAt is a field that waits for an answer.
func AskAt(at string, q Question, from string) Field { return Field{At: at, Ask: q, From: from} }

// fieldQuestions are those that a field may ask; what a command line may ask is
// in questions.
func fieldQuestions() []Question {
	return []Question{AskCommandLine, AskChannel, AskKernel, AskInitrd, AskVSock, AskLandlock}
}

// Asks reports whether the command line, or a request that starts the guest, waits
// for the answer to a question.
func (vm *VM) Asks(q Question) bool {
	return vm.API.asks(q) || slices.ContainsFunc(vm.Command, func(p Part) bool { return p.Ask == q })
}

// asks is Asks for the requests alone; without an API there are none.
func (a *API) asks(q Question) bool {
	return a != nil && slices.ContainsFunc(a.Start, func(r Request) bool {
		return r.Ask == q || slices.ContainsFunc(r.Body, func(f Field) bool { return f.Ask == q })
	})
}

// check refuses requests that Ampoule never makes.
func (a *API) check() error {
	others := []Request{a.Alive}
	if a.Power != nil {
		others = append(others, *a.Power)
	}
	if len(a.Start) == 0 {
		return fmt.Errorf("vm.api.start: nothing starts the guest")
	}
	for i, r := range slices.Concat(others, a.Start) {
		err := r.check()
		if err == nil && i < len(others) && (r.Ask != "" || slices.ContainsFunc(r.Body, func(f Field) bool { return f.Ask != "" })) {
			err = fmt.Errorf("it asks, and starts nothing")
		}
		if err != nil {
			return fmt.Errorf("vm.api: the request %s: %w", strconv.Quote(r.Path), err)
		}
	}
	for _, e := range a.Events {
		if !slices.Contains([]Meaning{Rebooting, Resumed, Panicked, PoweredOff}, e.Means) {
			return fmt.Errorf("vm.api.events: a meaning that this version of Ampoule does not know")
		}
	}
	return checkPattern("vm.api.halted", a.Halted)
}

func (r *Request) check() error {
	if !slices.Contains([]string{"GET", "PUT", "PATCH", "POST"}, r.Method) {
		return fmt.Errorf("the method is none of GET, PUT, PATCH, POST")
	}
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsFunc(r.Path, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("not the path of a request")
	}
	if r.Ask != "" && r.Ask != AskNetwork || r.Ask == "" && r.From != "" {
		return fmt.Errorf("it takes something with it that this version of Ampoule does not know")
	}
	for _, f := range r.Body {
		if err := f.check(); err != nil {
			return fmt.Errorf("the field %s: %w", strconv.Quote(f.At), err)
		}
	}
	_, err := r.Render(func(q Question) (Answer, error) { return Answer{Hole: true}, nil })
	return err
}

func (f *Field) check() error {
	if f.Ask != "" {
		if !slices.Contains(fieldQuestions(), f.Ask) {
			return fmt.Errorf("a question that this version of Ampoule cannot answer")
		}
		if f.Value != "" || f.Type != "" {
			return fmt.Errorf("it asks, and has a value")
		}
		return nil
	}
	_, err := f.json()
	return err
}

// json returns the field's value as it stands in a body.
func (f *Field) json() ([]byte, error) {
	switch f.Type {
	case "":
		return quote(f.Value), nil
	case Number:
		if n, err := strconv.ParseInt(f.Value, 10, 64); err != nil || strconv.FormatInt(n, 10) != f.Value {
			return nil, fmt.Errorf("not a whole number")
		}
		return []byte(f.Value), nil
	case Boolean:
		if f.Value != "true" && f.Value != "false" {
			return nil, fmt.Errorf("neither true nor false")
		}
		return []byte(f.Value), nil
	case Object:
		if f.Value != "" {
			return nil, fmt.Errorf("an object with a value")
		}
		return []byte("{}"), nil
	}
	return nil, fmt.Errorf("a type that this version of Ampoule does not know")
}
