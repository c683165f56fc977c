package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

const (
	destination = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager     = "org.freedesktop.systemd1.Manager."
	get         = "org.freedesktop.DBus.Properties.Get"
)

// window is how many calls are under way at once. A message bus lets a user
// have 128.
const window = 64

// Units returns the services whose name matches the pattern and which the
// manager has in memory, and those with the given names, which it reads for the
// purpose; one that it does not find has the LoadState not-found. Of those that
// it had to read there is nothing but LoadState and ExecStart. Each comes once,
// sorted by name, without Detail.
func (c *Client) Units(pattern string, names []string) ([]Unit, error) {
	units, err := c.List(pattern)
	if err != nil {
		return nil, err
	}
	inMemory := len(units)
	byName := func(a, b Unit) int { return strings.Compare(a.Name, b.Name) }
	for _, name := range names {
		if _, found := slices.BinarySearchFunc(units[:inMemory], Unit{Name: name}, byName); !found {
			units = append(units, Unit{Name: name, ActiveState: "inactive", SubState: "dead", Memory: -1})
		}
	}
	slices.SortFunc(units, byName)
	units = slices.CompactFunc(units, func(a, b Unit) bool { return a.Name == b.Name })

	listed := []string{"Description", "LoadState", "ActiveState", "SubState"}
	// Those that are not in memory the manager reads anew for each question, in a
	// millisecond, so there is one; and what it says of changes means nothing.
	var absent []*Unit
	var questions []question
	for i := range units {
		u := &units[i]
		switch {
		case u.LoadState == "":
			absent = append(absent, u)
			questions = ask(questions, u, only("ExecStart"))
		case u.LoadState == "not-found" && u.ActiveState == "inactive":
		case u.ActiveState == "inactive":
			questions = ask(questions, u, wanted(always, listed...))
		default:
			questions = ask(questions, u, wanted(running, listed...))
		}
	}
	if err := c.answer(questions); err != nil {
		return nil, err
	}
	questions = nil
	for _, u := range absent {
		if len(u.ExecStart) > 0 {
			u.LoadState = "loaded"
		} else {
			questions = ask(questions, u, only("LoadState"))
		}
	}
	if err := c.answer(questions); err != nil {
		return nil, err
	}
	return units, nil
}

// List returns the services that the manager has in memory and whose name
// matches the pattern, sorted by name. It asks once: of each there is Name,
// Description, LoadState, ActiveState and SubState.
func (c *Client) List(pattern string) ([]Unit, error) {
	var inMemory [][]any
	call := c.manager().Call(manager+"ListUnitsByPatterns", 0, []string{}, []string{pattern})
	if err := call.Store(&inMemory); err != nil {
		return nil, fmt.Errorf("asking systemd for its units: %w", explain(err))
	}
	units := make([]Unit, 0, len(inMemory))
	for _, l := range inMemory {
		u, err := fromList(l)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	slices.SortFunc(units, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	return units, nil
}

// Ask fills in properties of units, by systemd's names for them.
func (c *Client) Ask(units []*Unit, names ...string) error {
	of := slices.DeleteFunc(properties(), func(p property) bool { return !slices.Contains(names, p.name) })
	if len(of) != len(names) {
		return fmt.Errorf("not all of %q are properties that can be asked for", names)
	}
	var questions []question
	for _, u := range units {
		questions = ask(questions, u, of)
	}
	return c.answer(questions)
}

// Unit returns all of one service. One that the manager does not find has the
// LoadState not-found.
func (c *Client) Unit(name string) (Unit, error) {
	u := Unit{Name: name, Memory: -1}
	err := c.answer(ask(nil, &u, wanted(detail)))
	return u, err
}

// UnitOfPID returns the name of the unit to which a process belongs.
func (c *Client) UnitOfPID(pid int) (string, error) {
	var path dbus.ObjectPath
	if err := c.manager().Call(manager+"GetUnitByPID", 0, uint32(pid)).Store(&path); err != nil {
		return "", fmt.Errorf("asking systemd for the unit of process %d: %w", pid, explain(err))
	}
	v, err := c.conn.Object(destination, path).GetProperty(ofUnit + ".Id")
	if err != nil {
		return "", fmt.Errorf("asking systemd for the unit of process %d: %w", pid, explain(err))
	}
	name, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("systemd gives Id as %T", v.Value())
	}
	return name, nil
}

func (c *Client) manager() dbus.BusObject { return c.conn.Object(destination, managerPath) }

// fromList reads an element of ListUnits: name, description, load state, active
// state, sub state, following, object, number of its job, type of that, …
func fromList(l []any) (Unit, error) {
	var texts [5]string
	for i := range texts {
		var ok bool
		if len(l) > i {
			texts[i], ok = l[i].(string)
		}
		if !ok {
			return Unit{}, errors.New("systemd lists its units in a form that is not known")
		}
	}
	u := Unit{Name: texts[0], Description: texts[1], LoadState: texts[2], ActiveState: texts[3], SubState: texts[4], Memory: -1}
	if len(l) > 8 {
		u.Job, _ = l[8].(string)
	}
	return u, nil
}

// question is for one property of one unit.
type question struct {
	unit *Unit
	property
}

func ask(questions []question, u *Unit, of []property) []question {
	for _, p := range of {
		questions = append(questions, question{u, p})
	}
	return questions
}

// answer asks all questions, many of them at once; the context of the connection
// ends them. That the manager refuses one
// is said in its unit; an error ends all of them.
func (c *Client) answer(questions []question) error {
	asked := make(map[*dbus.Call]question, window)
	done := make(chan *dbus.Call, window)
	take := func() error {
		call := <-done
		q := asked[call]
		delete(asked, call)
		return q.take(call)
	}
	for _, q := range questions {
		if len(asked) == window {
			if err := take(); err != nil {
				return err
			}
		}
		object := c.conn.Object(destination, pathOf(q.unit.Name))
		asked[object.Go(get, 0, done, q.of, q.name)] = q
	}
	for len(asked) > 0 {
		if err := take(); err != nil {
			return err
		}
	}
	return nil
}

// take puts an answer where it belongs.
func (q question) take(call *dbus.Call) error {
	var refused dbus.Error
	var v dbus.Variant
	switch err := call.Store(&v); {
	case errors.As(err, &refused):
		if refused.Name != "org.freedesktop.DBus.Error.UnknownProperty" && q.unit.Err == nil {
			q.unit.Err = fmt.Errorf("systemd does not tell %s: %w", q.name, refused)
		}
	case err != nil:
		return fmt.Errorf("asking systemd about %s: %w", q.unit.Name, explain(err))
	case !q.set(q.unit, v.Value()) && q.unit.Err == nil:
		q.unit.Err = wrongType(q.property, v.Value())
	}
	return nil
}

// pathOf is the object of a unit: what is no letter or digit, and a digit at
// the beginning, is written as _ and two hexadecimal digits.
func pathOf(name string) dbus.ObjectPath {
	var b strings.Builder
	b.WriteString("/org/freedesktop/systemd1/unit/")
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if name == "" {
		b.WriteByte('_')
	}
	return dbus.ObjectPath(b.String())
}
