package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLog: what of a request reaches the log, which is the guest's console
// where no file is named. Off is the only level without a word.
func TestLog(t *testing.T) {
	t.Parallel()
	const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} `
	for _, c := range []struct {
		level        string
		body         bool // the bodies of requests
		mistake      bool // a wrong value in a body
		action       bool // what an action failed of
		calls, quiet bool
	}{
		{level: "Off", quiet: true}, {level: "oFF", quiet: true},
		{level: "Error", mistake: true, action: true},
		{level: "Warning", mistake: true, action: true},
		{level: "warn", mistake: true, action: true},
		{level: "Info", mistake: true, action: true, body: true},
		{level: "", mistake: true, action: true, body: true},
		{level: "Debug", mistake: true, action: true, body: true, calls: true},
		{level: "TRACE", mistake: true, action: true, body: true, calls: true},
	} {
		for _, p := range programs() {
			t.Run(c.level+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				args := []string{"--level", c.level}
				if c.level == "" {
					args = []string{"--id", "anonymous-instance"}
				}
				v := start(t, p.path(t), args...)
				v.ask("PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"SECRET-1"}`)
				v.ask("PUT", "/machine-config", `{"vcpu_count":"SECRET-2"}`)
				v.ask("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/SECRET-3"}`)
				v.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
				if !c.quiet && c.body {
					v.sees(`{\"action_type\":\"InstanceStart\"}`)
				} else if !c.quiet {
					v.sees("SECRET-3")
				}
				said := v.console.String()
				if !c.body {
					said = regexp.MustCompile(`(?m)^\[.*$`).ReplaceAllString(said, "") // the guest's own words
				}
				if c.quiet && strings.TrimSpace(said) != "" {
					t.Errorf("it says\n%s", said)
				}
				for what, want := range map[string]bool{
					`(?m)^` + stamp + `\[anonymous-instance:fc_api\] The API server received a Put request on "/boot-source" with body "\{\\"kernel_image_path\\":\\".*/kernel\\",\\"boot_args\\":\\"SECRET-1\\"\}"\.$`: c.body,
					`SECRET-1`: c.body,
					`(?m)^` + stamp + `\[anonymous-instance:fc_api\] SerdeJson\(Error\("invalid type: string \\"SECRET-2\\", expected u8", line: 1, column: 24\)\)$`: c.mistake,
					`SECRET-2`: c.mistake,
					`(?m)^` + stamp + `\[anonymous-instance:fc_api\] Received Error\. Status code: 400 Bad Request\. Message: Drive config error: .*/SECRET-3$`: c.action,
					`SECRET-3`: c.action,
					`Total previous API call duration: \d+ us`:                              c.calls,
					`The request was executed successfully\. Status code: 204 No Content\.`: c.body,
				} {
					if regexp.MustCompile(what).MatchString(said) != want {
						t.Errorf("%s is said: %v, in\n%s", what, !want, said)
					}
				}
				if v.errors.Len() > 0 {
					t.Error(v.errors)
				}
			})
		}
	}
}

// A log file takes the log from the console, and PUT /logger without a level
// brings back Info.
func TestLogFile(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			v.must("PUT", "/logger", `{"log_path":"{dir}/log","show_level":true}`)
			v.must("PUT", "/entropy", `{"rate_limiter":null}`)
			v.must("PUT", "/logger", `{"level":"Off"}`)
			v.must("PUT", "/entropy", `{}`)
			b, err := os.ReadFile(filepath.Join(v.dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			if want := regexp.MustCompile(`^.* \[anonymous-instance:fc_api:INFO\] The request was executed successfully\. Status code: 204 No Content\.\n` +
				`.* \[anonymous-instance:fc_api:INFO\] The API server received a Put request on "/entropy" with body "\{\\"rate_limiter\\":null\}"\.\n`); !want.Match(b) {
				t.Errorf("the log is\n%s", b)
			}
			if strings.Contains(string(b), `"{}"`) {
				t.Errorf("at level Off it says\n%s", b)
			}
			if said := v.console.String(); said != "" {
				t.Errorf("the console says %q", said)
			}
		})
	}
}
