# Stands for the part of nixpkgs' lib that the modules and examples use: the module system
# with declarations of one option in several modules, definitions with conditions and
# priorities, and the common types; and some functions. It follows the documentation of
# the NixOS manual. What is not here is an error, not something else.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    hasAttr
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    sort
    split
    stringLength
    substring
    tail
    ;
  concatMap = builtins.concatMap;
  optionals = condition: list: if condition then list else [ ];
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  last = list: elemAt list (length list - 1);
  toList = x: if isList x then x else [ x ];
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs = f: set: removeAttrs set (filter (name: !(f name set.${name})) (attrNames set));
  show = concatStringsSep ".";

  property = name: x: isAttrs x && (x._type or "") == name;
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };

  # push VALUE: the sets of definitions in it, with what holds for a whole set put on each
  # of its values, so that the names can be had without the conditions.
  push =
    value:
    if property "merge" value then
      concatMap push value.contents
    else if property "if" value then
      map (mapAttrs (_: mkIf value.condition)) (push value.content)
    else if property "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (push value.content)
    else
      [ value ];

  # discharge DEFINITION: those that count, without conditions.
  discharge =
    d:
    if property "merge" d.value then
      concatMap (value: discharge (d // { inherit value; })) d.value.contents
    else if property "if" d.value then
      if d.value.condition then discharge (d // { value = d.value.content; }) else [ ]
    else
      [ d ];

  # settle DEFINITIONS: those of the highest priority, in their order.
  settle =
    definitions:
    let
      found = concatMap discharge definitions;
      priority = d: if property "override" d.value then d.value.priority else 100;
      best = foldl' (a: d: if priority d < a then priority d else a) 9999 found;
      strip = d: if property "override" d.value then d // { value = d.value.content; } else d;
      order = d: if property "order" d.value then d.value.priority else 1000;
      bare = d: if property "order" d.value then d // { value = d.value.content; } else d;
    in
    map bare (sort (a: b: order a < order b) (map strip (filter (d: priority d == best) found)));

  merge =
    loc: type: definitions:
    let
      settled = settle definitions;
      wrong = filter (d: !(type.check d.value)) settled;
    in
    {
      inherit settled;
      defined = settled != [ ];
      value =
        if settled == [ ] then
          throw "The option `${show loc}' is used but not defined."
        else if wrong != [ ] then
          throw "A definition for option `${show loc}' is not of type `${type.description}'. Definitions: ${toString (map (d: toString d.file) wrong)}"
        else
          type.merge loc settled;
    };

  isOption = property "option";
  mkOption = attributes: attributes // { _type = "option"; };

  # evaluate LOC MODULES FREEFORM: the tree of options and their values.
  evaluate =
    loc: declarations: definitions: freeform:
    let
      names = unique (concatMap (d: attrNames d.options) declarations);
      sets = concatMap (d: map (value: d // { inherit value; }) (push d.value)) definitions;
      of = name: concatMap (d: if d.value ? ${name} then [ { inherit (d) file; value = d.value.${name}; } ] else [ ]) sets;
      one =
        name:
        let
          here = loc ++ [ name ];
          declared = concatMap (d: if d.options ? ${name} then [ { inherit (d) file; options = d.options.${name}; } ] else [ ]) declarations;
        in
        if any (d: isOption d.options) declared then
          leaf here (map (d: d.options) declared) (of name)
        else
          evaluate here declared (of name) null;
      results = listToAttrs (map (name: { inherit name; value = one name; }) names);
      unknown = unique (concatMap (d: filter (name: !(elem name names)) (attrNames d.value)) sets);
      strangers = concatMap (d: filter (name: d.value ? ${name}) unknown) sets;
      free =
        if freeform != null then
          freeform.merge loc (map (d: d // { value = removeAttrs d.value names; }) sets)
        else if unknown == [ ] then
          { }
        else
          throw "The option `${show (loc ++ [ (head strangers) ])}' does not exist. Definitions: ${toString (map (d: toString d.file) (filter (d: d.value ? ${head strangers}) sets))}";
    in
    {
      tree = true;
      options = mapAttrs (_: r: r.options) results;
      config = (if names == [ ] || freeform != null then free else if unknown == [ ] then { } else free) // mapAttrs (_: r: r.config) results;
    };

  leaf =
    loc: declared: definitions:
    let
      declaration = foldl' (a: b: a // b) { } declared;
      given = filter (d: d ? type) declared;
      kinds = map (d: d.type) given;
      type = if kinds == [ ] then types.unspecified else foldl' mergeTypes (head kinds) (tail kinds);
      default = optionals (declaration ? default) [
        {
          file = "default";
          value = mkOverride 1500 declaration.default;
        }
      ];
      merged = merge loc type (definitions ++ default);
    in
    {
      config = (declaration.apply or (x: x)) merged.value;
      options = declaration // {
        inherit type loc;
        value = merged.value;
        isDefined = merged.defined;
        definitionsWithLocations = merged.settled;
        definitions = map (d: d.value) merged.settled;
      };
    };

  mergeTypes =
    a: b:
    if a.name != b.name then
      throw "an option is declared with the types ${a.name} and ${b.name}"
    else if a ? modules then
      types.submodule (a.modules ++ b.modules)
    else if a ? element then
      a.again (mergeTypes a.element b.element)
    else
      a;

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      base = {
        inherit lib;
        inherit (result) config options;
      }
      // specialArgs;
      call =
        f:
        f (
          base
          // listToAttrs (
            map (name: {
              inherit name;
              value = base.${name} or result.config._module.args.${name};
            }) (attrNames (functionArgs f))
          )
        );
      normal =
        file: module:
        if isPath module || isString module then
          normal (toString module) (import module)
        else if isFunction module then
          normal file (call module)
        else
          let
            own = toString (module._file or file);
            rest = removeAttrs module [
              "_file"
              "key"
              "imports"
              "options"
              "config"
              "freeformType"
            ];
            short = !(module ? config || module ? options);
          in
          concatMap (normal own) (module.imports or [ ])
          ++ [
            {
              file = own;
              options = module.options or { };
              value = if short then rest else module.config or { };
              freeform = if short then null else module.freeformType or null;
            }
          ];
      all = concatMap (normal "<unknown-file>") (modules ++ [ { options._module.args = mkOption { type = types.attrsOf types.unspecified; default = { }; }; } ]);
      freeforms = filter (f: f != null) (map (m: m.freeform) all);
      result = evaluate prefix all all (if freeforms == [ ] then null else head freeforms);
    in
    {
      inherit (result) options;
      config = removeAttrs result.config [ "_module" ];
    };

  simple = name: description: check: {
    inherit name description check;
    merge =
      loc: definitions:
      if all (d: d.value == (head definitions).value) definitions then
        (head definitions).value
      else
        throw "The option `${show loc}' has conflicting definition values: ${toString (map (d: toString d.file) definitions)}";
  };

  types = rec {
    unspecified = simple "unspecified" "unspecified value" (_: true) // {
      merge = loc: definitions: if length definitions == 1 then (head definitions).value else throw "The option `${show loc}' is defined several times.";
    };
    raw = unspecified;
    anything = unspecified;
    bool = simple "bool" "boolean" isBool;
    int = simple "int" "signed integer" isInt;
    str = simple "str" "string" isString;
    path = simple "path" "absolute path" (x: substring 0 1 (toString x) == "/");
    package = simple "package" "package" (x: isAttrs x && (x.type or "") == "derivation");
    enum = values: simple "enum" "one of ${toString values}" (x: elem x values);
    lines = simple "separatedString" "strings concatenated with newlines" isString // {
      merge = _: definitions: concatStringsSep "\n" (map (d: d.value) definitions);
    };
    nullOr = element: {
      name = "nullOr";
      description = "null or ${element.description}";
      inherit element;
      again = nullOr;
      check = x: x == null || element.check x;
      merge = loc: definitions: if all (d: d.value == null) definitions then null else element.merge loc definitions;
    };
    either = a: b: {
      name = "either";
      description = "${a.description} or ${b.description}";
      check = x: a.check x || b.check x;
      merge = loc: definitions: if all (d: a.check d.value) definitions then a.merge loc definitions else b.merge loc definitions;
    };
    listOf = element: {
      name = "listOf";
      description = "list of ${element.description}";
      inherit element;
      again = listOf;
      check = isList;
      merge =
        loc: definitions:
        concatMap (d: map (value: (merge (loc ++ [ "[]" ]) element [ (d // { inherit value; }) ]).value) d.value) definitions;
    };
    attrsOf = element: {
      name = "attrsOf";
      description = "attribute set of ${element.description}";
      inherit element;
      again = attrsOf;
      check = isAttrs;
      merge =
        loc: definitions:
        let
          sets = concatMap (d: map (value: d // { inherit value; }) (push d.value)) definitions;
          names = unique (concatMap (d: attrNames d.value) sets);
          one = name: merge (loc ++ [ name ]) element (concatMap (d: if d.value ? ${name} then [ { inherit (d) file; value = d.value.${name}; } ] else [ ]) sets);
          merged = listToAttrs (map (name: { inherit name; value = one name; }) names);
        in
        mapAttrs (_: m: m.value) (filterAttrs (_: m: m.defined) merged);
    };
    submodule = modules: {
      name = "submodule";
      description = "submodule";
      modules = toList modules;
      check = x: isAttrs x || isFunction x || isPath x;
      merge =
        loc: definitions:
        (evalModules {
          prefix = loc;
          specialArgs.name = last loc;
          modules =
            toList modules
            ++ map (d: if isAttrs d.value then { _file = d.file; config = d.value; } else { _file = d.file; imports = [ d.value ]; }) definitions;
        }).config;
    };
  };

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  lib = {
    inherit
      attrValues
      concatMap
      elem
      evalModules
      filter
      filterAttrs
      hasPrefix
      head
      last
      listToAttrs
      mapAttrs
      mapAttrsToList
      mkIf
      mkMerge
      mkOption
      mkOrder
      mkOverride
      optionals
      tail
      toList
      types
      unique
      concatStringsSep
      ;
    inherit (builtins) replaceStrings;
    mkOptionType = type: { description = type.name; } // type;
    mkForce = mkOverride 50;
    mkDefault = mkOverride 1000;
    mkAfter = mkOrder 1500;
    mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    optional = condition: x: optionals condition [ x ];
    optionalString = condition: text: if condition then text else "";
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    inherit concatMapStringsSep;
    hasSuffix = suffix: text: let n = stringLength text; k = stringLength suffix; in n >= k && substring (n - k) k text == suffix;
    removeSuffix = suffix: text: if lib.hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
    makeBinPath = concatMapStringsSep ":" (p: "${p}/bin");
    hasInfix = infix: text: length (split (escape infix) text) > 1;
    splitString = separator: text: filter isString (split (escape separator) text);
    toLower = builtins.replaceStrings (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (characters "abcdefghijklmnopqrstuvwxyz");
    escapeShellArg = x: "'" + builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString x) + "'";
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    nameValuePair = name: value: { inherit name value; };
    mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
    genAttrs = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
  };
  concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
  characters = text: genList (i: substring i 1 text) (stringLength text);
  escape = builtins.replaceStrings (characters "\\.[{()*+?^$|") (map (c: "\\${c}") (characters "\\.[{()*+?^$|"));
in
lib
