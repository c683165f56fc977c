# collect DIRECTORY RUNNER [FILE...] and collect_units DIRECTORY UNITS: what runners.nix says
# of a fixture, in DIRECTORY.

# references FILE: the files of the store, not the directories, that FILE names; and those
# that are scripts of units in directories.
references() {
  grep -aoE '/nix/store/[0-9a-df-np-sv-z]{32}-[-+._?=0-9a-zA-Z]+(/bin/[-+._?=0-9a-zA-Z\\]+)?' "$1" | sort -u | while read -r path; do
    case $path in
      *-microvm-store-disk.*) ;;
      *-unit-script-*/bin/*) echo "$path" ;;
      */bin/*) ;;
      *) if [ -f "$path" ]; then echo "$path"; fi ;;
    esac
  done
}

# keep DIRECTORY PATH: a file of the store and what it names into DIRECTORY/store.
keep() {
  for path in $(references "$2") $3; do
    file=store/${path#/nix/store/}
    if [ ! -e "$1/$file" ]; then
      mkdir -p "$(dirname "$1/$file")"
      cp "$path" "$1/$file"
      printf '%s\t%s\n' "$file" "$path" >> "$1/paths"
      (keep "$1" "$path" "")
    fi
  done
}

collect() {
  mkdir -p "$1/bin"
  printf '.\t%s\n' "$2" >> "$1/paths"
  for script in "$2"/bin/*; do
    cp -L "$script" "$1/bin/"
    printf 'bin/%s\t%s\n' "${script##*/}" "$(readlink -f "$script")" >> "$1/paths"
  done
  cp -RH "$2/share" "$1/share"
  if [ -L "$2/share/microvm/system" ]; then
    printf 'share/microvm/system\t%s\n' "$(readlink "$2/share/microvm/system")" >> "$1/paths"
  fi
  directory=$1 runner=$2
  shift 2
  for script in "$runner"/bin/*; do keep "$directory" "$script" ""; done
  for file; do keep "$directory" /dev/null "$file"; done
}

collect_units() {
  mkdir -p "$1/system"
  printf '.\t%s\n' "$2" >> "$1/paths"
  (cd "$2" && find . -mindepth 1 | sort) | while read -r name; do
    name=system/${name#./}
    source=$2/${name#system/}
    if [ -L "$source" ]; then
      case $(readlink "$source") in
        /nix/store/*)
          cp "$source" "$1/$name"
          printf '%s\t%s\n' "$name" "$(readlink "$source")" >> "$1/paths"
          keep "$1" "$source" ""
          ;;
        *) cp -P "$source" "$1/$name" ;;
      esac
    else
      mkdir -p "$1/$name"
    fi
  done
}
