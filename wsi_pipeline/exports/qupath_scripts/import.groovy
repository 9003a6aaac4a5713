// Makes a QuPath project of a run, or brings one up to date: slides, cells, regions, answers. QuPath 0.5 to 0.7.
//
//     QuPath script import.groovy         in a terminal; or drag this file onto QuPath, then Run
//
// Running it again adds what is missing and leaves what is there, with your corrections, as it is.

// The folder this script was written into. After moving the folder, put its new place here:
// new File('/new/place/qupath')
File folder = new File(new URI('@FOLDER@'))

// Slides are opened where the run found them. After moving them, put the folder they are all in here:
// new File('/new/place/slides')
File slidesFolder = null

import java.awt.image.BufferedImage
import javafx.application.Platform
import qupath.lib.common.ColorTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.commands.ProjectCommands
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerMetadata
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.ProjectIO
import qupath.lib.projects.Projects

File listing = new File(folder, 'slides.json')
if (!listing.isFile())
    throw new FileNotFoundException(listing.path + ' is not there. Put the folder of this script into its line "File folder"')
Map listed = GsonTools.getInstance().fromJson(listing.getText('UTF-8'), Map)

// Metadata of an entry is a map since 0.6.
def putMetadata = { entry, String key, String value ->
    if (entry.respondsTo('getMetadata'))
        entry.getMetadata().put(key, value)
    else
        entry.putMetadataValue(key, value)
}
def getMetadata = { entry, String key ->
    entry.respondsTo('getMetadata') ? entry.getMetadata().get(key) : entry.getMetadataValue(key)
}

// Open the project, or make it.
File home = new File(folder, 'project')
File projectFile = new File(home, 'project.qpproj')
home.mkdirs()
def project = projectFile.isFile() ?
        ProjectIO.loadProject(projectFile, BufferedImage) : Projects.createProject(home, BufferedImage)
def classes = new LinkedHashMap()
for (known in project.getPathClasses())
    classes.put(String.valueOf(known), known)
for (Map one in listed.classes) {
    List color = one.color
    int rgb = ColorTools.packRGB(color[0] as int, color[1] as int, color[2] as int)
    classes.putIfAbsent(one.name as String, PathClass.fromString(one.name as String, rgb))
}
project.setPathClasses(classes.values())

def failed = []
for (Map slide in listed.slides) {
    try {
        int width = slide.width as int
        int height = slide.height as int

        def entry = project.getImageList().find { getMetadata(it, 'Fingerprint') == slide.fingerprint }
        if (entry == null) {
            URI uri = new URI(slide.uri as String)
            if (slidesFolder != null)
                uri = new File(slidesFolder, new File(uri).name).toURI()
            if (!new File(uri).exists())
                throw new FileNotFoundException(new File(uri).path + ' is not there. Put the folder of the slides ' +
                        'into the line "File slidesFolder" of this script')
            def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage, uri.toString())
            def builders = support == null ? [] : support.getBuilders()
            // A file may hold several images; objects fit only the one that the run read.
            def sizes = []
            def builder = builders.find {
                def server = it.build()
                sizes << server.getWidth() + ' x ' + server.getHeight()
                boolean fits = server.getWidth() == width && server.getHeight() == height
                server.close()
                fits
            }
            if (builder == null)
                throw new IOException('no image of ' + width + ' x ' + height + ' pixels in ' + new File(uri).path +
                        (sizes.isEmpty() ? ', which QuPath cannot read' : '; QuPath reads ' + sizes.join(', ')))
            entry = project.addImage(builder)
            entry.setImageName(slide.slide_id as String)
        }

        slide.metadata.each { key, value -> putMetadata(entry, key as String, value as String) }
        entry.setDescription(slide.description as String)

        def imageData = entry.readImageData()
        def server = imageData.getServer()
        if (imageData.getImageType() == null || imageData.getImageType() == ImageData.ImageType.UNSET)
            imageData.setImageType(ImageData.ImageType.valueOf(slide.image_type as String))
        if (!server.getPixelCalibration().hasPixelSizeMicrons())
            imageData.updateServerMetadata(new ImageServerMetadata.Builder(server.getMetadata())
                    .pixelSizeMicrons(slide.mpp_x as double, slide.mpp_y as double).build())

        def hierarchy = imageData.getHierarchy()
        def present = new HashSet()
        for (known in hierarchy.getAllObjects(false))
            present.add(known.getID())
        int added = 0
        for (file in slide.files) {
            def objects = PathIO.readObjects(new File(folder, file as String)).findAll { !present.contains(it.getID()) }
            hierarchy.addObjects(objects)
            added += objects.size()
        }
        if (entry.getThumbnail() == null)
            entry.setThumbnail(ProjectCommands.getThumbnailRGB(server))
        entry.saveImageData(imageData)
        project.syncChanges()
        println slide.slide_id + ': ' + added + ' objects added, ' + present.size() + ' were there'
        server.close()
    } catch (Exception error) {
        failed << slide.slide_id
        println slide.slide_id + ': FAILED, ' + error.getMessage()
    }
}
project.syncChanges()
println 'project: ' + projectFile.path

def gui = QuPathGUI.getInstance()
if (gui != null)
    Platform.runLater { gui.setProject(project) }
if (!failed.isEmpty())
    throw new IOException(failed.size() + ' of ' + listed.slides.size() + ' slides failed: ' + failed.join(', '))
