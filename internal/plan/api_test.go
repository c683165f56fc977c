package plan

import (
	"errors"
	"strings"
	"testing"
)

// rendered is the body of fields, in which holes are their questions in braces.
func rendered(t *testing.T, fields []Field, answers map[Question]Answer) (string, error) {
	t.Helper()
	r := Request{Method: "PUT", Path: "/x", Body: fields}
	chunks, err := r.Render(func(q Question) (Answer, error) {
		a, ok := answers[q]
		if !ok {
			return a, errors.New("no answer")
		}
		return a, nil
	})
	var b strings.Builder
	for i, c := range chunks {
		if (len(c.JSON) > 0) == (c.Ask != "") {
			t.Errorf("%+v is neither text nor a hole", c)
		}
		if i > 0 && c.Ask == "" && chunks[i-1].Ask == "" {
			t.Errorf("two pieces of text in a row: %+v", chunks)
		}
		b.Write(c.JSON)
		if c.Ask != "" {
			b.WriteString("{" + string(c.Ask) + "}")
		}
	}
	return b.String(), err
}

// TestRender: fields stand in their order where their pointers lead, and what is
// in between is made; a field whose question has no answer is left out, and what
// would be made for it alone, too.
func TestRender(t *testing.T) {
	answers := map[Question]Answer{
		AskKernel: Text(`/proc/self/fd/3"`), AskLandlock: True(), AskInitrd: {}, AskChannel: {Hole: true}, AskCommandLine: Text("<é>\n\u2028"), AskVSock: {JSON: []byte("7")},
	}
	for name, c := range map[string]struct {
		fields []Field
		want   string
	}{
		"nothing":       {nil, ""},
		"empty":         {[]Field{Empty()}, "{}"},
		"types":         {[]Field{TextAt("/a", "x", ""), NumberAt("/b", -7, ""), TrueAt("/c", ""), FalseAt("/d", ""), {At: "/e", Type: Object}}, `{"a":"x","b":-7,"c":true,"d":false,"e":{}}`},
		"empty text":    {[]Field{TextAt("/a", "", "")}, `{"a":""}`},
		"order":         {[]Field{TextAt("/z", "1", ""), TextAt("/a/z", "2", ""), TextAt("/m", "3", ""), TextAt("/a/b", "4", "")}, `{"z":"1","a":{"z":"2","b":"4"},"m":"3"}`},
		"lists":         {[]Field{TextAt("/l/0/a", "1", ""), TextAt("/l/0/b", "2", ""), TextAt("/l/1/a", "3", ""), TextAt("/m/0", "4", ""), TextAt("/m/1", "5", "")}, `{"l":[{"a":"1","b":"2"},{"a":"3"}],"m":["4","5"]}`},
		"list of lists": {[]Field{NumberAt("/l/0/0", 1, ""), NumberAt("/l/0/1", 2, ""), NumberAt("/l/1/0", 3, "")}, `{"l":[[1,2],[3]]}`},
		"later numbers": {[]Field{TextAt("/o/a", "1", ""), TextAt("/o/00", "2", "")}, `{"o":{"a":"1","00":"2"}}`},
		"escapes":       {[]Field{TextAt("/a~1b~0c~01", "1", ""), TextAt(`/"q"`, "2", ""), TextAt("/ü/ ", "3", "")}, `{"a/b~c~1":"1","\"q\"":"2","ü":{" ":"3"}}`},
		"empty names":   {[]Field{TextAt("/", "1", ""), TextAt("/a/", "2", "")}, `{"":"1","a":{"":"2"}}`},
		"quotes":        {[]Field{TextAt("/a", "\"\\\x01</>\xff", "")}, `{"a":"\"\\\u0001</>\ufffd"}`},
		"answers":       {[]Field{AskAt("/k", AskKernel, ""), AskAt("/l", AskLandlock, ""), AskAt("/v", AskVSock, ""), AskAt("/c", AskCommandLine, "")}, `{"k":"/proc/self/fd/3\"","l":true,"v":7,"c":"<é>\n\u2028"}`},
		"left out":      {[]Field{TextAt("/a", "1", ""), AskAt("/b/initrd", AskInitrd, ""), TextAt("/c", "2", "")}, `{"a":"1","c":"2"}`},
		"all left out":  {[]Field{AskAt("/b", AskInitrd, "")}, "{}"},
		"hole":          {[]Field{TextAt("/a", "1", ""), AskAt("/p/strings", AskChannel, ""), TextAt("/p/uuid", "2", "")}, `{"a":"1","p":{"strings":{channel},"uuid":"2"}}`},
		"hole first":    {[]Field{AskAt("/l/0", AskChannel, ""), AskAt("/l/1", AskChannel, "")}, `{"l":[{channel},{channel}]}`},
	} {
		if got, err := rendered(t, c.fields, answers); got != c.want || err != nil {
			t.Errorf("%s: %s, %v, want %s", name, got, err, c.want)
		}
	}
}

// TestRenderRefuses: what has no place, and what nobody answers, is an error that
// names the place and no value.
func TestRenderRefuses(t *testing.T) {
	const value = "hunter2"
	for want, fields := range map[string][]Field{
		`the field "a": not a JSON pointer to a member`:                        {TextAt("a", value, "")},
		`the field "": not a JSON pointer to a member`:                         {TextAt("", value, "")},
		`the field "": not a JSON pointer`:                                     {Empty(), TextAt("/a", value, "")},
		`the field "/a": it has a value already`:                               {TextAt("/a", value, ""), TextAt("/a", value, "")},
		`the field "/a/b": it leads into a value without members`:              {TextAt("/a", value, ""), TextAt("/a/b", value, "")},
		`the field "/a": it has a value alr`:                                   {TextAt("/a/b", value, ""), TextAt("/a", value, "")},
		`the field "/l/2": the members of its list are not numbered from 0 on`: {TextAt("/l/0", value, ""), TextAt("/l/2", value, "")},
		`the field "/l/a": the members of its list are not numbered`:           {TextAt("/l/0", value, ""), TextAt("/l/a", value, "")},
		`the field "/o/1": the members of its list are not`:                    {TextAt("/o/a", value, ""), TextAt("/o/1", value, "")},
		`the field "/p/x": it leads into a value`:                              {AskAt("/p", AskChannel, ""), TextAt("/p/x", value, "")},
		`the field "/n": not a whole number`:                                   {{At: "/n", Value: value, Type: Number}},
		`the field "/b": neither true nor false`:                               {{At: "/b", Value: value, Type: Boolean}},
		`the field "/o": an object with a value`:                               {{At: "/o", Value: value, Type: Object}},
		`the field "/t": a type that this version of Ampoule does not know`:    {{At: "/t", Value: value, Type: "date"}},
		`the field "/\x1b": it has a value already`:                            {TextAt("/\x1b", value, ""), TextAt("/\x1b", value, "")},
		"no answer": {AskAt("/k", AskKernel, "")},
	} {
		got, err := rendered(t, fields, map[Question]Answer{AskChannel: {Hole: true}})
		if err == nil || !strings.HasPrefix(err.Error(), want) || got != "" || strings.Contains(err.Error(), value) {
			t.Errorf("%q, %v, want %s", got, err, want)
		}
	}
}

// TestLeftOutOfList: an element that nothing answers would move the others, and as
// the only one it takes the list with it.
func TestLeftOutOfList(t *testing.T) {
	none := map[Question]Answer{AskInitrd: {}}
	for _, fields := range [][]Field{
		{AskAt("/l/0", AskInitrd, ""), TextAt("/l/1", "x", "")},
		{TextAt("/l/0", "x", ""), AskAt("/l/1", AskInitrd, "")},
		{AskAt("/l/0/a", AskInitrd, ""), TextAt("/l/1/a", "x", "")},
	} {
		if got, err := rendered(t, fields, none); err == nil || !strings.Contains(err.Error(), "an element of a list") {
			t.Errorf("%v: %s, %v", fields, got, err)
		}
	}
	for want, fields := range map[string][]Field{
		`{"a":"1"}`:         {AskAt("/l/0/path", AskInitrd, ""), TextAt("/a", "1", "")},
		`{"l":[{"b":"2"}]}`: {AskAt("/l/0/a", AskInitrd, ""), TextAt("/l/0/b", "2", "")},
	} {
		if got, err := rendered(t, fields, none); got != want || err != nil {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	if got, err := rendered(t, []Field{AskAt("/a", AskInitrd, ""), TextAt("/a", "x", "")}, none); err == nil {
		t.Errorf("a place has two values, of which one is left out: %s", got)
	}
}

// TestCheckRequests: requests that Ampoule never makes.
func TestCheckRequests(t *testing.T) {
	good := func() API {
		return API{Alive: Request{Method: "GET", Path: "/"}, Start: []Request{{Method: "PUT", Path: "/go", Body: []Field{NumberAt("/n", 1, "")}}}, Power: &Request{Method: "POST", Path: "/off"}}
	}
	if a := good(); a.check() != nil {
		t.Fatal(a.check())
	}
	field := func(f Field) func(*API) { return func(a *API) { a.Start[0].Body = []Field{f} } }
	for name, c := range map[string]struct {
		change func(*API)
		want   string
	}{
		"no start":        {func(a *API) { a.Start = nil }, "vm.api.start: nothing starts the guest"},
		"method":          {func(a *API) { a.Start[0].Method = "put" }, `vm.api: the request "/go": the method is none of GET, PUT, PATCH, POST`},
		"no method":       {func(a *API) { a.Alive.Method = "" }, `vm.api: the request "/": the method`},
		"of the power":    {func(a *API) { a.Power.Method = "DELETE" }, `vm.api: the request "/off": the method`},
		"path":            {func(a *API) { a.Start[0].Path = "go" }, `vm.api: the request "go": not the path of a request`},
		"no path":         {func(a *API) { a.Alive.Path = "" }, `vm.api: the request "": not the path`},
		"second line":     {func(a *API) { a.Start[0].Path = "/go HTTP/1.1\r\nX: y" }, `not the path of a request`},
		"blank":           {func(a *API) { a.Start[0].Path = "/a b" }, "not the path"},
		"beyond ASCII":    {func(a *API) { a.Start[0].Path = "/ü" }, "not the path"},
		"question":        {field(AskAt("/a", "weather", "")), `the field "/a": a question that this version of Ampoule cannot answer`},
		"of a command":    {field(AskAt("/a", AskControl, "")), "a question that this version"},
		"asks with value": {field(Field{At: "/a", Ask: AskKernel, Value: "x"}), `the field "/a": it asks, and has a value`},
		"asks with type":  {field(Field{At: "/a", Ask: AskKernel, Type: Number}), "it asks, and has a value"},
		"number":          {field(Field{At: "/a", Value: "07", Type: Number}), "not a whole number"},
		"exponent":        {field(Field{At: "/a", Value: "1e3", Type: Number}), "not a whole number"},
		"huge number":     {field(Field{At: "/a", Value: "9223372036854775808", Type: Number}), "not a whole number"},
		"boolean":         {field(Field{At: "/a", Value: "True", Type: Boolean}), "neither true nor false"},
		"object":          {field(Field{At: "/a", Value: "{}", Type: Object}), "an object with a value"},
		"type":            {field(Field{At: "/a", Type: "null"}), "a type that this version"},
		"pointer":         {field(TextAt("a", "b", "")), `the field "a": not a JSON pointer to a member`},
		"twice":           {func(a *API) { a.Start[0].Body = append(a.Start[0].Body, NumberAt("/n", 2, "")) }, `the field "/n": it has a value already`},
		"alive asks":      {func(a *API) { a.Alive.Body = []Field{AskAt("/a", AskKernel, "")} }, `the request "/": it asks, and starts nothing`},
		"power asks":      {func(a *API) { a.Power.Body = []Field{AskAt("/a", AskKernel, "")} }, `the request "/off": it asks, and starts nothing`},
		"meaning":         {func(a *API) { a.Events = []Event{{Source: "a", Event: "b", Means: "party"}} }, "vm.api.events: a meaning"},
		"pattern":         {func(a *API) { a.Halted = "(" }, "vm.api.halted: the pattern is no regular expression"},
	} {
		a := good()
		c.change(&a)
		if err := a.check(); err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\r\n\x1b") {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestShown: what people see of a request.
func TestShown(t *testing.T) {
	for want, f := range map[string]Field{
		"/a=b c": TextAt("/a", "b c", ""), "/a=7": NumberAt("/a", 7, ""), "/a=true": TrueAt("/a", ""), "/a={kernel}": AskAt("/a", AskKernel, ""), "{}": Empty(), "/a={}": {At: "/a", Type: Object},
	} {
		if got := f.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if r := (Request{Method: "PUT", Path: "/a"}); r.String() != "PUT /a" {
		t.Error(r.String())
	}
}
