# What the modules share: where a definition stands, names by systemd's rules, and
# the text of a .microvm file. Pure; it looks at nothing but its arguments.
{ lib }:
let
  inherit (builtins)
    attrNames
    elem
    filter
    head
    isAttrs
    isBool
    isFloat
    isInt
    isString
    match
    stringLength
    substring
    tail
    unsafeGetAttrPos
    ;
  inherit (lib)
    concatMap
    concatMapStrings
    concatStringsSep
    hasPrefix
    hasSuffix
    replaceStrings
    toList
    toLower
    ;
in
rec {
  # positions PATH DEFINITIONS: "file:line" of each definition of the attribute at
  # PATH (a list of names), in the definitions of the option above it (as in
  # options.….definitionsWithLocations). One within a function is not found. No PATH: the
  # files in which the option itself is defined.
  positions =
    path: definitions:
    concatMap (
      d:
      if path == [ ] then
        lib.optional (toString d.file != "<unknown-file>") (toString d.file)
      else
        below (toString d.file) path d.value
    ) definitions;

  # below FILE PATH VALUE: "file:line" for each place in VALUE where PATH is defined. FILE is
  # for what has no position.
  below =
    file: path: value:
    let
      name = head path;
      rest = tail path;
      pos = unsafeGetAttrPos name value;
    in
    if !isAttrs value then
      [ ]
    else if (value._type or "") == "if" then
      if value.condition then below file path value.content else [ ]
    else if (value._type or "") == "override" || (value._type or "") == "order" then
      below file path value.content
    else if (value._type or "") == "merge" then
      concatMap (below file path) value.contents
    else if !(value ? ${name}) then
      [ ]
    else if rest != [ ] then
      below file rest value.${name}
    else if disabled value.${name} then
      [ ]
    else if pos == null then
      [ file ]
    else
      [ "${pos.file}:${toString pos.line}" ];

  # mkIf false around the value itself.
  disabled = value: isAttrs value && (value._type or "") == "if" && !value.condition;

  # at POSITIONS: the beginning of a message.
  at = where: if where == [ ] then "" else "${head where}: ";

  # credentialNameProblem NAME: what keeps systemd from taking a name, or Ampoule; or null.
  # The rules are those of internal/credential/rule.
  credentialNameProblem =
    name:
    if name == "" then
      "the name is empty"
    else if stringLength name > 255 then
      "the name has ${toString (stringLength name)} bytes, at most 255 are possible"
    else if name == "." || name == ".." then
      "the name is that of a directory"
    else if match "[!-~]*" name == null then
      "the name contains something else than printable ASCII characters without blanks"
    else if match "[^/:\\]*" name == null then
      "the name contains one of / : \\"
    else if hasPrefix "ampoule." name then
      "names that begin with ampoule. are Ampoule's own"
    else if name == "vmm.notify_socket" then
      "the name is that by which the guest finds out where to say that it is ready; Ampoule sets it"
    else
      null;
  credentialNameForm = "a name has 1 to 255 printable ASCII characters, without blanks, /, : and \\";

  # sourceProblem SOURCE: what is wrong with the path of a secret, or null.
  sourceProblem =
    source:
    let
      text = toString source;
    in
    if hasPrefix builtins.storeDir text then
      "this lies in the Nix store, which every user of the host, and every machine that it is copied to, can read"
    else if !(hasPrefix "/" text) then
      "the path is not absolute"
    else if elem ".." (lib.splitString "/" text) then
      "the path contains \"..\""
    else if match "[!-~]*" text == null || match ".*\\\\.*" text != null then
      "systemd cannot pass blanks, backslashes, and what is not ASCII, on in the source of a credential"
    else
      null;

  # alike NAME: names that differ in case, dashes, underscores and dots alone are alike.
  alike = name: replaceStrings [ "-" "." ] [ "_" "_" ] (toLower name);

  # percent TEXT: for a unit file, where % begins a specifier.
  percent = replaceStrings [ "%" ] [ "%%" ];

  # cEscape TEXT: for the value of SetCredential=, in which systemd undoes C escapes.
  # A blank at either end would be trimmed.
  cEscape =
    text:
    let
      escaped = replaceStrings [ "\\" "\n" "\r" "\t" ] [ "\\\\" "\\n" "\\r" "\\t" ] text;
      size = stringLength escaped;
      first = if hasPrefix " " escaped then "\\x20" + substring 1 size escaped else escaped;
    in
    if hasSuffix " " first && stringLength first > 0 then substring 0 (stringLength first - 1) first + "\\x20" else first;

  # render SECTIONS: the text of a .microvm file. SECTIONS is an attribute set of
  # sections, in each of which a key has a string, a number, a truth value, or a
  # list of these, one line for each. null leaves a key out.
  render =
    sections:
    concatStringsSep "\n" (
      map (section: "[${section}]\n${assignments section sections.${section}}") (ordered (attrNames sections))
    );
  ordered =
    names:
    let
      known = [ "Unit" "MicroVM" "Service" "Install" ];
    in
    filter (name: elem name names) known ++ filter (name: !(elem name known)) names;
  assignments =
    section: keys:
    concatMapStrings (
      key: concatMapStrings (value: "${key}=${scalar section key value}\n") (filter (v: v != null) (toList keys.${key}))
    ) (attrNames keys);
  scalar =
    section: key: value:
    if isBool value then
      if value then "yes" else "no"
    else if isInt value || isFloat value then
      toString value
    else if isString value && match "[^\n\r]*" value != null && !(hasSuffix "\\" value) then
      value
    else if isString value then
      throw "[${section}] ${key}=: a value is one line that does not end in a backslash"
    else
      throw "[${section}] ${key}=: a value is a string, a number, true or false, or a list of these";
}
