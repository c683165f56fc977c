package explain

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/plan"
)

// isRequest and isField are the paths of a request in a plan, and of a field of
// its body.
var (
	isRequest = regexp.MustCompile(`^vm\.(?:api\.(alive|power|start\[([0-9]+)\])|resize\.(add|balloon|gauges\[([0-9]+)\])\.request)`)
	isField   = regexp.MustCompile(`^\.body\[([0-9]+)\]`)
)

// request shows what stands at a path, where that is a request, and returns its
// body.
func request(path string, node map[string]any) (shown string, body any, ok bool) {
	if isRequest.FindString(path) != path || path == "" {
		return "", nil, false
	}
	return (&plan.Request{Method: text(node["method"]), Path: text(node["path"]), Ask: plan.Question(text(node["ask"]))}).String(), node["body"], true
}

// field shows what stands at a path, where that is a field of a request.
func field(path string, node map[string]any) (shown string, ok bool) {
	whose := isRequest.FindString(path)
	rest := path[len(whose):]
	if whose == "" || rest == "" || isField.FindString(rest) != rest {
		return "", false
	}
	f := plan.Field{At: text(node["at"]), Value: text(node["value"]), Type: plan.Type(text(node["type"])), Ask: plan.Question(text(node["ask"]))}
	return f.String(), true
}

func text(v any) string { s, _ := v.(string); return s }

// behindRequest is Behind for what the hypervisor is asked: a field has the
// assignment or the question that it is made of, and a request the assignment that all
// of its fields have; most are the same for every VM.
func behindRequest(vm *plan.VM, path string) (id string, keys []string) {
	r, rest := requestAt(vm, path)
	if r == nil {
		return "", nil
	}
	if m := isField.FindStringSubmatch(rest); m != nil {
		i, err := strconv.Atoi(m[1])
		if err != nil || i >= len(r.Body) {
			return "", nil
		}
		f := r.Body[i]
		if f.From != "" {
			return f.From, nil
		}
		return "", asked(vm, f.Ask)
	}
	return assignment(r), nil
}

// assignment is the one behind a request as such, where there is one: a disk, say.
func assignment(r *plan.Request) (id string) {
	for i, f := range r.Body {
		if f.From == "" || i > 0 && f.From != id {
			return ""
		}
		id = f.From
	}
	return id
}

// requestAt returns the request at the beginning of a path, and the rest of that.
func requestAt(vm *plan.VM, path string) (r *plan.Request, rest string) {
	m := isRequest.FindStringSubmatch(path)
	if m == nil || m[1] != "" && vm.API == nil || m[3] != "" && vm.Resize == nil {
		return nil, ""
	}
	rest = path[len(m[0]):]
	switch {
	case m[1] == "alive":
		return &vm.API.Alive, rest
	case m[1] == "power":
		return vm.API.Power, rest
	case m[3] == "add" && vm.Resize.Add != nil:
		return &vm.Resize.Add.Request, rest
	case m[3] == "balloon" && vm.Resize.Balloon != nil:
		return &vm.Resize.Balloon.Request, rest
	case m[4] != "":
		if i, err := strconv.Atoi(m[4]); err == nil && i < len(vm.Resize.Gauges) {
			return &vm.Resize.Gauges[i].Request, rest
		}
	case m[2] != "":
		if i, err := strconv.Atoi(m[2]); err == nil && i < len(vm.API.Start) {
			return &vm.API.Start[i], rest
		}
	}
	return nil, ""
}

// names reports whether a query means a request, or a field of one, by what the
// hypervisor calls it: a path, with or without what stands before its last "/",
// or the place or the name of a field. A request that is meant is so with its
// fields.
func (x *Explainer) names(where, query string) bool {
	vm := &x.res.Draft.VM
	r, rest := requestAt(vm, where)
	if r == nil || query == "" {
		return false
	}
	if query == r.String() || query == r.Method+" "+r.Path || called(r.Path, query) {
		return true
	}
	m := isField.FindStringSubmatch(rest)
	if m == nil {
		return false
	}
	i, err := strconv.Atoi(m[1])
	if err != nil || i >= len(r.Body) {
		return false
	}
	f := &r.Body[i]
	return query == f.String() || called(f.At, query) || strings.HasPrefix(f.At, query+"/") && query[0] == '/'
}

// called reports whether a path is a query, or ends in it behind a "/".
func called(path, query string) bool {
	return path == query || path != "/" && path[strings.LastIndexByte(path, '/')+1:] == query
}
