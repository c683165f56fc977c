package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/explain"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// explained is the JSON of explain, which is documented: keys without --plan,
// and fields with it.
type explained struct {
	VM     string           `json:"vm"`
	Hidden []source.Hidden  `json:"hidden_files"`
	Keys   []explain.Answer `json:"keys,omitempty"`
	Fields []explain.Field  `json:"fields,omitempty"`
}

const explainLong = `Says for each key of a VM which value counts and where it was set, which lines it stands in the place of, and what it became. ` +
	`Without KEY that is a table of all keys: OVER names the lines that do not count because of the one that does. With KEY (one of [MicroVM], or SECTION.KEY), ` +
	`every line that assigns it, by which rule it counts or not, the default, and what came of it in the plan and in the unit.

With --plan it goes the other way: from a field of the plan (ampoule plan --json has them, such as vm.memory, or disks[0].path), ` +
	`a word of the hypervisor's command line (such as --plan=-smp), or KEY or KEY=VALUE of the unit, to the lines that caused it.

What may be secret is shortened. Files that do not count because one of the same name ranks higher are named on standard error.

With --json: an object with vm, hidden_files (path, by), and either keys or fields. A key has section, key, set, default, lines (origin with file, line and layer; key, value, fate, which is effective, shadowed, reset or clears; by, an origin or null; rule), ` +
	`plan and unit (fields), and help. A field has where, value and causes: key, origin (null for a default) and why.

Exit codes: 0; 2 where the files have mistakes, of which what can be said is said all the same, or where nothing has the name.`

func explainCommand(s Streams) *cobra.Command {
	var sel selection
	var asJSON bool
	var query string
	cmd := &cobra.Command{
		Use:     "explain NAME|FILE [KEY]",
		Short:   "Show where every setting of a VM comes from, and what it became",
		Long:    explainLong,
		Example: "  ampoule explain web\n  ampoule explain web Memory\n  ampoule explain web Service.ExecStartPre\n  ampoule explain web --plan=-smp",
		Args:    argumentsOf("explain takes one NAME or FILE, and a KEY", 1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return completeVM(cmd, args, word)
			case 1:
				return spec.Names(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sel.verify(cmd, args[0]); err != nil {
				return err
			}
			key := ""
			if len(args) > 1 {
				key = args[1]
			}
			if cmd.Flags().Changed("plan") && (query == "" || key != "") {
				return errors.New("--plan takes a piece of the plan or of the unit, and no KEY beside it")
			}
			return sel.explain(s, args[0], key, query, asJSON)
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().StringVar(&query, "plan", "", "say what caused this `PIECE` of the plan or of the unit")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the answer as JSON")
	return cmd
}

func (sel *selection) explain(s Streams, argument, key, query string, asJSON bool) error {
	res := sel.load(argument)
	printProblems(s, res.Problems)
	if res.Draft == nil {
		return exitError(run.ExitBadInput)
	}
	unit, err := unitText(res)
	if err != nil {
		return err
	}
	x := explain.New(res, unit)
	out := explained{VM: res.Source.Name, Hidden: append([]source.Hidden{}, res.Source.Hidden...)}
	switch {
	case query != "":
		if out.Fields = x.Find(query); len(out.Fields) == 0 {
			return fmt.Errorf("nothing in the plan or the unit of %s is %s; ampoule plan %s --json and --unit show them", out.VM, emit.Visible(query), argument)
		}
	case key != "":
		if out.Keys = x.Key(key); len(out.Keys) == 0 {
			return noKey(x, key)
		}
	default:
		out.Keys = x.Keys()
	}
	switch {
	case asJSON:
		err = printJSON(s.Out, out)
	case query != "":
		err = printFields(s.Out, out.Fields)
	case key != "":
		err = printAnswers(s.Out, out.Keys)
	default:
		err = printKeys(s.Out, out.Keys)
	}
	if err != nil {
		return err
	}
	for _, h := range out.Hidden {
		fmt.Fprintf(s.Err, "%s: note: not read, since %s has its name and ranks higher\n", emit.Visible(h.Path), emit.Visible(h.By))
	}
	if res.Problems.HasErrors() {
		return exitError(run.ExitBadInput)
	}
	return nil
}

// noKey names the key that was meant, perhaps.
func noKey(x *explain.Explainer, key string) error {
	var names []string
	for _, a := range x.Keys() {
		names = append(names, a.Key)
	}
	what := fmt.Sprintf("no key of [%s] is called %s, and no line of the VM sets one", spec.Section, emit.Visible(key))
	if near := diag.Nearest(key, names); near != "" {
		return fmt.Errorf("%s; did you mean %s?", what, near)
	}
	return errors.New(what)
}

// named is a key as a table shows it.
func named(a explain.Answer) string {
	if a.Section == spec.Section {
		return a.Key
	}
	return "[" + a.Section + "] " + a.Key
}

// printKeys writes one row for each line that counts, and one for each key that
// has none.
func printKeys(w io.Writer, answers []explain.Answer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tVALUE\tFROM\tOVER")
	for _, a := range answers {
		for _, l := range a.Lines {
			over := strings.Join(losers(a, l), ", ")
			switch {
			case l.Key != a.Key:
			case l.Counts():
				row(t, named(a), l.Value, place(l.Origin), over)
			case l.Clears() && a.Set && over != "":
				row(t, named(a), "(cleared)", place(l.Origin), over)
			}
		}
		if !a.Set {
			row(t, named(a), a.Default, "default", strings.Join(unused(a), ", "))
		}
	}
	return t.Flush()
}

func row(t io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = emit.Visible(cells[i])
	}
	fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

// losers are the lines in whose place one stands.
func losers(a explain.Answer, winner explain.Line) []string {
	var out []string
	for _, l := range a.Lines {
		if l.By != nil && *l.By == winner.Origin {
			out = append(out, l.Origin.String())
		}
	}
	return out
}

// unused are all lines of a key of which none counts.
func unused(a explain.Answer) []string {
	var out []string
	for _, l := range a.Lines {
		if l.Key == a.Key {
			out = append(out, l.Origin.String())
		}
	}
	return out
}

// place is an origin with its layer, where that is not the VM's own file.
func place(o diag.Origin) string {
	if o.Layer == "" || o.Layer == "main" {
		return o.String()
	}
	return o.String() + " (" + o.Layer + ")"
}

// printAnswers writes all about some keys.
func printAnswers(w io.Writer, answers []explain.Answer) error {
	var b strings.Builder
	for i, a := range answers {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(named(a) + "=\n")
		t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, l := range a.Lines {
			why := l.Rule
			if l.By != nil {
				why += ": " + l.By.String()
			}
			row(t, "  "+string(l.Fate), l.Key+"="+l.Value, place(l.Origin), why)
		}
		used := ""
		if a.Set {
			used = "not used"
		}
		row(t, "  default", a.Default, used)
		_ = t.Flush()
		section(&b, "in the plan", a.Plan)
		section(&b, "in the unit", a.Unit)
		if a.Help != "" {
			b.WriteString("\n" + a.Help + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func section(b *strings.Builder, title string, fields []explain.Field) {
	if len(fields) == 0 {
		return
	}
	b.WriteString("\n" + title + "\n")
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for _, f := range fields {
		row(t, "  "+f.Where, f.Value)
	}
	_ = t.Flush()
}

// printFields writes one row for each cause of each field.
func printFields(w io.Writer, fields []explain.Field) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "WHERE\tVALUE\tKEY\tFROM")
	for _, f := range fields {
		where, value := f.Where, f.Value
		for _, c := range f.Causes {
			from := c.Why
			if c.Origin != nil {
				from = place(*c.Origin)
			}
			row(t, where, value, cmp.Or(c.Key, "-"), from)
			where, value = "", ""
		}
	}
	return t.Flush()
}
