package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// The samples have the shape of systemd's key table in its two languages.
const (
	sampleM4 = "m4_dnl shared\n" +
		"m4_define(`EXEC_CONTEXT_CONFIG_ITEMS',\n" +
		"`$1.Colour,                 config_parse_bool,     0,    offsetof($1, exec_context.colour)\n" +
		"$1.NoComma                  config_parse_bool,     0,    0\n" +
		"m4_ifdef(`HAVE_TASTE',\n" +
		"`$1.Taste,                  config_parse_strv,     0,    0',\n" +
		"`$1.Taste,                  config_parse_warn_compat, DISABLED_CONFIGURATION, 0')\n" +
		"$1.Last,                    config_parse_mode,     0,    0'\n" +
		")m4_dnl\n" +
		"Unit.Shape,config_parse_unit_deps, UNIT_SHAPE, 0\n" +
		"Service.Old,                config_parse_string,   0,    0\n" +
		"EXEC_CONTEXT_CONFIG_ITEMS(Service)m4_dnl\n" +
		"Socket.Listen,              config_parse_listen,   0,    0\n" +
		"EXEC_CONTEXT_CONFIG_ITEMS(Socket)m4_dnl\n" +
		"Install.Also,               NULL,                  0,    0\n"
	sampleJinja = `{# shared #}
{%- macro EXEC_CONTEXT_CONFIG_ITEMS(type) -%}
{{type}}.Colour,   config_parse_private_colour, 0, 0
{% if HAVE_TASTE %}
{{type}}.Taste,    config_parse_strv, 0, 0
{% else %}
{{type}}.Taste,    config_parse_warn_compat, DISABLED_CONFIGURATION, 0
{% endif %}
{%- endmacro -%}
%%
Unit.Shape,        config_parse_unit_deps, UNIT_SHAPE, 0
Service.Old,       config_parse_warn_compat, DISABLED_LEGACY, 0
{{ EXEC_CONTEXT_CONFIG_ITEMS('Service') }}
Install.Also,      NULL, 0, 0
`
)

func TestParseKeyTable(t *testing.T) {
	for _, c := range []struct {
		text string
		want map[name]entry
	}{
		{sampleM4, map[name]entry{
			{"Service", "Colour"}: {group: groupExec, parser: "config_parse_bool"},
			{"Service", "Taste"}:  {group: groupExec, parser: "config_parse_strv"},
			{"Service", "Last"}:   {group: groupExec, parser: "config_parse_mode"},
			{"Service", "Old"}:    {group: groupService, parser: "config_parse_string"},
			{"Unit", "Shape"}:     {group: groupUnit, parser: "config_parse_unit_deps"},
			{"Install", "Also"}:   {group: groupInstall, parser: "NULL"},
		}},
		{sampleJinja, map[name]entry{
			{"Service", "Colour"}: {group: groupExec, parser: "config_parse_private_colour"},
			{"Service", "Taste"}:  {group: groupExec, parser: "config_parse_strv"},
			{"Service", "Old"}:    {group: groupService, parser: legacyParser, legacy: true},
			{"Unit", "Shape"}:     {group: groupUnit, parser: "config_parse_unit_deps"},
			{"Install", "Also"}:   {group: groupInstall, parser: "NULL"},
		}},
	} {
		got, err := parseKeyTable(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("got  %v\nwant %v", got, c.want)
		}
	}
}

func TestParseKeyTableRefuses(t *testing.T) {
	for what, text := range map[string]string{
		"no key found":                       "%%\nSocket.Listen, config_parse_listen, 0, 0\n",
		"stands in no macro that is known":   "{{type}}.Colour, config_parse_bool, 0, 0\n",
		"are not those of a service":         "{%- macro EXEC_CONTEXT_CONFIG_ITEMS(type) -%}\n{{type}}.Colour, config_parse_bool, 0, 0\n{%- endmacro -%}\n",
		"the macro CGROUP are not those of ": strings.ReplaceAll(sampleM4, "EXEC_CONTEXT_CONFIG_ITEMS(Service)", "EXEC(Service)") + "m4_define(`CGROUP_CONTEXT_CONFIG_ITEMS',\n$1.Weight, config_parse_bool, 0, 0\nEXEC_CONTEXT_CONFIG_ITEMS(Service)\n",
	} {
		if got, err := parseKeyTable(text); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, %v; want %q", got, err, what)
		}
	}
}

// repository makes a repository whose tags hold the given files.
func repository(t *testing.T, tags []string, files []map[string]string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	do := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	do("init", "-q", "-b", "main")
	for i, tag := range tags {
		do("rm", "-rq", "--ignore-unmatch", ".")
		for path, text := range files[i] {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		do("add", "-A")
		do("commit", "-q", "--allow-empty", "-m", "sample")
		if tag != "" {
			do("tag", tag)
		}
	}
	return dir
}

func TestHistory(t *testing.T) {
	const in, m4 = "src/core/load-fragment-gperf.gperf.in", "src/core/load-fragment-gperf.gperf.m4"
	repo := repository(t, []string{"v182", "v183", "v184", "v184-rc1", "v185", ""}, []map[string]string{
		{}, // older than the tables tell apart
		{m4: sampleM4},
		{m4: strings.Replace(sampleM4, "Unit.Shape,", "Unit.Form, config_parse_bool, 0, 0\nUnit.Shape,", 1)},
		{},
		{in: sampleJinja},
		{in: sampleJinja, "meson.version": "186~devel\n"},
	})
	releases, err := readReleases(repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	facts, err := fold(releases)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range facts {
		k := systemdkeys.Key{Since: f.since, Ignored: f.ignored, Removed: f.removed}
		line := f.name.String()
		for v := 183; v <= 187; v++ {
			line += map[systemdkeys.State]string{systemdkeys.NotYet: " .", systemdkeys.Honours: " y", systemdkeys.Ignores: " i", systemdkeys.Dropped: " x"}[k.In(v)]
		}
		got = append(got, line+" "+f.last.parser)
	}
	want := []string{
		"Install.Also y y y y y NULL",
		"Service.Colour y y y y y config_parse_private_colour",
		"Service.Last y y x x x config_parse_mode",
		"Service.Old y y i i i config_parse_string",
		"Service.Taste y y y y y config_parse_strv",
		"Unit.Form . y x x x config_parse_bool",
		"Unit.Shape y y y y y config_parse_unit_deps",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := readReleases(repo, "v185"); err == nil {
		t.Error("a head without meson.version passes")
	}
}

func TestHistoryRefuses(t *testing.T) {
	for _, missing := range []string{"v183", "v184"} {
		repo := repository(t, []string{missing + "x", "v185"}, []map[string]string{{}, {}})
		if _, err := readReleases(repo, ""); err == nil || !strings.Contains(err.Error(), "fetch the tags") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
	back := []release{
		{183, map[name]entry{{"Unit", "Shape"}: {}}},
		{184, map[name]entry{{"Unit", "Form"}: {}}},
		{185, map[name]entry{{"Unit", "Shape"}: {}}},
	}
	if _, err := fold(back); err == nil || !strings.Contains(err.Error(), "Unit.Shape is back in version 185") {
		t.Errorf("a key that comes back: %v", err)
	}
	back[1].keys[name{"Unit", "Shape"}] = entry{legacy: true}
	if _, err := fold(back); err == nil || !strings.Contains(err.Error(), "Unit.Shape is back in version 185") {
		t.Errorf("a key that has an effect again: %v", err)
	}
	if _, err := fold(back[1:2]); err == nil || !strings.Contains(err.Error(), "never had an effect") {
		t.Errorf("a key without effect from the start: %v", err)
	}
}

// TestJudgeAsks shows that no key gets into the tables by default.
func TestJudgeAsks(t *testing.T) {
	fresh := func(g group, parser string) fact {
		return fact{name: name{"Service", "Fresh"}, since: 999, last: entry{group: g, parser: parser}, parsers: []string{parser}}
	}
	for _, c := range []struct {
		fact fact
		want string
	}{
		{fresh(groupService, "config_parse_bool"), "Service.Fresh has no judgement"},
		{fresh(groupCgroup, "config_parse_bool"), "Service.Fresh has no judgement"},
		{fresh(groupExec, "config_parse_fresh"), "what config_parse_fresh does"},
		{fact{name: name{"Install", "Fresh"}, last: entry{group: groupInstall}}, "Install.Fresh has no kind"},
	} {
		if _, err := judge([]fact{c.fact}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	_, err := judge(nil)
	for _, want := range []string{"the judgement of ExecStart (service) is about no key", "the replacement of Unit.BindTo is about no key"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestTablesFollowTheRules finds rules that were changed after the tables
// were written.
func TestTablesFollowTheRules(t *testing.T) {
	reaches, err := reachOf()
	if err != nil {
		t.Fatal(err)
	}
	for at, r := range reaches {
		section := "Service"
		if at.group == groupUnit {
			section = "Unit"
		}
		k, ok := systemdkeys.Lookup(section, at.key)
		if !ok || k.Restart != (r == atStart) || k.Cgroup != (r == onReload) {
			t.Errorf("%s: the rule says %d, the table %+v", at.key, r, k)
		}
	}
	for n, by := range replaced {
		if k, _ := systemdkeys.Lookup(n.section, n.key); k.Replaced != by {
			t.Errorf("%v is replaced by %q, the table says %q", n, by, k.Replaced)
		}
	}
	seen := make(map[string]bool)
	for _, p := range parsers {
		for n := range strings.FieldsSeq(p.names) {
			if seen[n] {
				t.Errorf("the parser %s is sorted twice", n)
			}
			seen[n] = true
		}
	}
}

// TestRegenerate writes the tables anew where AMPOULE_SYSTEMD_SOURCE names a
// checkout of systemd, and finds them as they are.
func TestRegenerate(t *testing.T) {
	repo := os.Getenv("AMPOULE_SYSTEMD_SOURCE")
	if repo == "" {
		t.Skip("AMPOULE_SYSTEMD_SOURCE names no checkout of systemd")
	}
	dir := t.TempDir()
	if err := run(repo, os.Getenv("AMPOULE_SYSTEMD_HEAD"), dir); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 7 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, path := range names {
		fresh, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old, err := os.ReadFile(filepath.Join("..", filepath.Base(path)))
		if err != nil || !bytes.Equal(fresh, old) {
			t.Errorf("%s is not what gen writes (%v)", filepath.Base(path), err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for _, repo := range []string{"", filepath.Join(t.TempDir(), "absent")} {
		dir := t.TempDir()
		if err := run(repo, "", dir); err == nil {
			t.Errorf("%q passes", repo)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%q left %v, %v", repo, left, err)
		}
	}
}
