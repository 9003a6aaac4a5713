"""The few classes of QuPath that the scripts call, as Groovy sources, so that the scripts run without QuPath.

Names and signatures are those of QuPath 0.5 to 0.7. An image is a text file of sizes, ``WIDTH HEIGHT ...``; a project
is a JSON file of what was set. What QuPath itself does with the calls is not tested.
"""

from __future__ import annotations

from pathlib import Path

_SOURCES = {
    "javafx.application.Platform": "class Platform { static void runLater(Runnable work) { work.run() } }",
    "qupath.lib.common.ColorTools": """
class ColorTools { static Integer packRGB(int r, int g, int b) { (255 << 24) | (r << 16) | (g << 8) | b } }""",
    "qupath.lib.gui.QuPathGUI": "class QuPathGUI { static QuPathGUI getInstance() { null } }",
    "qupath.lib.gui.commands.ProjectCommands": """
class ProjectCommands { static String getThumbnailRGB(server) { 'thumbnail' } }""",
    "qupath.lib.images.ImageData": """
import qupath.lib.images.servers.Server
import qupath.lib.objects.hierarchy.Hierarchy
class ImageData {
    static enum ImageType { BRIGHTFIELD_H_E, BRIGHTFIELD_OTHER, UNSET }
    Server server
    ImageType imageType = ImageType.UNSET
    Hierarchy hierarchy = new Hierarchy()
    void updateServerMetadata(metadata) { server.mpp = metadata.mpp }
}""",
    "qupath.lib.images.servers.Server": """
class Server {
    int width
    int height
    List mpp
    Server build() { this }
    Map getMetadata() { [mpp: mpp] }
    Server getPixelCalibration() { this }
    boolean hasPixelSizeMicrons() { mpp != null }
    void close() { }
}""",
    "qupath.lib.images.servers.ImageServerMetadata": """
class ImageServerMetadata {
    List mpp
    static class Builder {
        List mpp
        Builder(metadata) { }
        Builder pixelSizeMicrons(Number x, Number y) { mpp = [x, y]; this }
        ImageServerMetadata build() { new ImageServerMetadata(mpp: mpp) }
    }
}""",
    "qupath.lib.images.servers.ImageServerProvider": """
class ImageServerProvider {
    static Support getPreferredUriImageSupport(Class type, String path, String... args) {
        List sizes = new File(new URI(path)).text.split() as List
        sizes == ['unreadable'] ? null : new Support(
            builders: sizes.collate(2).collect { new Server(width: it[0] as int, height: it[1] as int) })
    }
}""",
    "qupath.lib.images.servers.Support": "class Support { List builders }",
    "qupath.lib.io.GsonTools": """
class GsonTools {
    static GsonTools getInstance() { new GsonTools() }
    Object fromJson(String text, Class type) { doubles(new groovy.json.JsonSlurper().parseText(text)) }
    static Object doubles(value) {  // as Gson, which makes every number of a map a double
        value instanceof Map ? value.collectEntries { k, v -> [k, doubles(v)] } :
            value instanceof List ? value.collect { doubles(it) } :
            value instanceof Number ? value.doubleValue() : value
    }
}""",
    "qupath.lib.io.PathIO": """
import qupath.lib.objects.PathObject
class PathIO {
    static enum GeoJsonExportOptions { PRETTY_JSON, EXCLUDE_MEASUREMENTS, FEATURE_COLLECTION }
    static List readObjects(File file) {
        InputStream stream = new java.util.zip.GZIPInputStream(new FileInputStream(file))
        new groovy.json.JsonSlurper().parse(stream, 'UTF-8').features.collect { new PathObject(feature: it) }
    }
    static void exportObjectsAsGeoJSON(File file, Collection objects, GeoJsonExportOptions... options) {
        assert GeoJsonExportOptions.FEATURE_COLLECTION in options
        file.setText(groovy.json.JsonOutput.toJson([type: 'FeatureCollection', features: objects*.feature]), 'UTF-8')
    }
}""",
    "qupath.lib.objects.PathObject": """
class PathObject {
    Map feature
    UUID getID() { UUID.fromString(feature.id) }
}""",
    "qupath.lib.objects.hierarchy.Hierarchy": """
class Hierarchy {
    List objects = []
    Collection getAllObjects(boolean root) { objects }
    void addObjects(Collection added) { objects.addAll(added) }
}""",
    "qupath.lib.objects.classes.PathClass": """
class PathClass {
    String name
    Integer color
    static PathClass fromString(String name, Integer color) { new PathClass(name: name, color: color) }
    String toString() { name }
}""",
    "qupath.lib.projects.Projects": """
class Projects {
    static Project createProject(File folder, Class type) { new Project(file: new File(folder, 'project.qpproj')) }
}""",
    "qupath.lib.projects.Project": """
class Project {
    File file
    List imageList = []
    List classes = []
    List getPathClasses() { classes }
    boolean setPathClasses(Collection wanted) { classes = wanted as List; true }
    Entry addImage(builder) { imageList << new Entry(builder: builder); imageList[-1] }
    void syncChanges() {
        file.setText(groovy.json.JsonOutput.toJson([
            classes: classes.collect { [it.name, it.color] },
            entries: imageList.collect { [
                name: it.imageName, metadata: it.store, description: it.description, thumbnail: it.thumbnail,
                type: it.data?.imageType as String, mpp: it.data?.server?.mpp,
                size: [it.builder.width, it.builder.height], features: it.data?.hierarchy?.objects*.feature,
            ] },
        ]), 'UTF-8')
    }
}""",
    "qupath.lib.projects.Entry": """
import qupath.lib.images.ImageData
class Entry {
    def builder
    String imageName
    String description
    String thumbnail
    Map store = [:]
    ImageData data
    // METADATA
    ImageData readImageData() { data ?: new ImageData(server: builder.build()) }
    def readHierarchy() { readImageData().hierarchy }
    void saveImageData(ImageData saved) { data = saved }
}""",
    "qupath.lib.projects.ProjectIO": """
import qupath.lib.images.ImageData
import qupath.lib.images.servers.Server
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
class ProjectIO {
    static Project loadProject(File file, Class type) {
        Map stored = new groovy.json.JsonSlurper().parse(file, 'UTF-8')
        Project project = Projects.createProject(file.parentFile, type)
        project.setPathClasses(stored.classes.collect { PathClass.fromString(it[0], it[1]) })
        stored.entries.each { one ->
            Entry entry = project.addImage(new Server(width: one.size[0], height: one.size[1], mpp: one.mpp))
            entry.imageName = one.name
            entry.description = one.description
            entry.thumbnail = one.thumbnail
            entry.store.putAll(one.metadata)
            entry.data = new ImageData(server: entry.builder, imageType: ImageData.ImageType.valueOf(one.type))
            entry.data.hierarchy.addObjects(one.features.collect { new PathObject(feature: it) })
        }
        project
    }
}""",
}

_METADATA = {
    "0.5": """String putMetadataValue(String key, String value) { store.put(key, value) }
    String getMetadataValue(String key) { store.get(key) }""",
    "0.6": "Map getMetadata() { store }",
}


def write_stub(folder: Path, version: str) -> Path:
    """Write the sources of version 0.5 or 0.6 below a folder, for ``groovyc``."""
    for name, source in _SOURCES.items():
        package = name.rpartition(".")[0]
        path = folder / Path(*name.split(".")).with_suffix(".groovy")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {package}\n{source.replace('// METADATA', _METADATA[version])}\n", encoding="utf-8")
    return folder
